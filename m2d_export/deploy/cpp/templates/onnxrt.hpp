#pragma once

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "batches.hpp"
#include "model_file.hpp"

namespace m2d {
namespace detail {

/// The graph in ONNX Runtime on the CPU. Batches run one after the other, each with all threads.
class Model {
 public:
  Model(const std::filesystem::path& folder, const Tokenizer& tokenizer, int threads) {
    const std::filesystem::path file = model_file(folder, "model.onnx");
    std::vector<std::int64_t> shape;
    try {
      environment_.DisableTelemetryEvents();
      Ort::SessionOptions options;
      if (threads > 0) options.SetIntraOpNumThreads(threads);
      for (const auto& setting : settings) options.AddConfigEntry(setting[0], setting[1]);
      session_ = Ort::Session(environment_, file.c_str(), options);
      Ort::AllocatorWithDefaultOptions allocator;
      for (std::size_t place = 0; place < session_.GetInputCount(); ++place) {
        inputs_.emplace_back(session_.GetInputNameAllocated(place, allocator).get());
      }
      output_ = session_.GetOutputNameAllocated(0, allocator).get();
      const Ort::TypeInfo type = session_.GetOutputTypeInfo(0);
      shape = type.GetTensorTypeAndShapeInfo().GetShape();
    } catch (const std::exception& error) {
      throw Error("ONNX Runtime cannot load " + file.string() + " (copy it again): " + error.what());
    }
    check_inputs(inputs_, file, tokenizer.dim());
    if (shape.size() != 2 || shape[1] != static_cast<std::int64_t>(tokenizer.dim())) {
      throw other_export(file, tokenizer.dim());
    }
  }

  static constexpr std::size_t min_fill = cpu_min_fill;

  /// How many texts of at most `tokens` tokens go in one batch.
  std::size_t max_texts(std::size_t tokens) const { return std::max<std::size_t>(cpu_token_budget / tokens, 1); }

  /// Write the vectors of all batches to the rows of their texts. Several threads may call it at the same time.
  void run(const Batches& batches, float* vectors) const {
    const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const char* const output = output_.c_str();
    std::vector<std::int64_t> numbers[input_count];
    try {
      for (const Batch& batch : batches.all()) {
        for (auto& input : numbers) input.resize(batch.count * batch.tokens);
        batches.fill(batch, numbers[0].data(), numbers[1].data(), numbers[2].data());
        const std::int64_t shape[] = {static_cast<std::int64_t>(batch.count), static_cast<std::int64_t>(batch.tokens)};
        std::vector<const char*> names;
        std::vector<Ort::Value> values;
        for (const std::string& name : inputs_) {
          auto& input = numbers[input_number(name)];
          names.push_back(name.c_str());
          values.push_back(Ort::Value::CreateTensor<std::int64_t>(memory, input.data(), input.size(), shape, 2));
        }
        const std::vector<Ort::Value> given =
            session_.Run(Ort::RunOptions{nullptr}, names.data(), values.data(), values.size(), &output, 1);
        batches.store(batch, given.front().GetTensorData<float>(), vectors);
      }
    } catch (const Ort::Exception& error) {
      throw Error(std::string("ONNX Runtime cannot run this batch: ") + error.what());
    }
  }

 private:
  // As in Python: m2d_export/runtimes/onnxrt.py has the reasons.
  static constexpr const char* settings[][2] = {
      $session_settings,
  };

  Ort::Env environment_{ORT_LOGGING_LEVEL_ERROR, "m2d"};
  mutable Ort::Session session_{nullptr};  // Run is not const, but several threads may call it
  std::vector<std::string> inputs_;
  std::string output_;
};

}  // namespace detail
}  // namespace m2d
