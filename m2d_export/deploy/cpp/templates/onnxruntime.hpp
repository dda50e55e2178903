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

/// The graph in ONNX Runtime on the CPU: one batch after the other, with all threads each.
class Model {
 public:
  Model(const std::filesystem::path& folder, const Tokenizer& tokenizer, int threads) {
    const std::filesystem::path file = model_file(folder, "model.onnx");
    std::vector<std::int64_t> shape;
    try {
      Ort::SessionOptions options;
      if (threads > 0) options.SetIntraOpNumThreads(threads);
      // Threads spin during a call, not after it: spinning on, they take the cores from whatever runs next.
      options.AddConfigEntry("session.force_spinning_stop", "1");
      // Its fused kernel goes number by number, and takes longer than an addition and a layer norm.
      options.AddConfigEntry("optimization.disable_specified_optimizers", "SkipLayerNormFusion");
      session_ = Ort::Session(environment_, file.c_str(), options);
      Ort::AllocatorWithDefaultOptions allocator;
      for (std::size_t place = 0; place < session_.GetInputCount(); ++place) {
        inputs_.emplace_back(session_.GetInputNameAllocated(place, allocator).get());
      }
      output_ = session_.GetOutputNameAllocated(0, allocator).get();
      const Ort::TypeInfo type = session_.GetOutputTypeInfo(0);
      shape = type.GetTensorTypeAndShapeInfo().GetShape();
    } catch (const std::exception& error) {
      throw Error("ONNX Runtime cannot load " + file.string() + ", copy it again: " + error.what());
    }
    std::size_t has[4] = {};
    for (const std::string& name : inputs_) ++has[place_of_input(name)];
    if (has[0] != 1 || has[1] != 1 || has[3] != 0 || shape.size() != 2 ||
        shape[1] != static_cast<std::int64_t>(tokenizer.dim())) {
      throw of_another_export(file, tokenizer.dim());
    }
  }

  static constexpr std::size_t least_fill = fill_on_processors;

  /// How many texts of up to `tokens` tokens go in one batch.
  std::size_t most_texts(std::size_t tokens) const { return std::max<std::size_t>(token_budget / tokens, 1); }

  /// Write the vectors of all batches, each to the rows of its texts. Safe from several threads at once.
  void run(const Batches& batches, float* vectors) const {
    const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const char* const output = output_.c_str();
    std::vector<std::int64_t> numbers[3];
    try {
      for (const Batch& batch : batches.all()) {
        for (auto& input : numbers) input.resize(batch.count * batch.tokens);
        batches.fill(batch, numbers[0].data(), numbers[1].data(), numbers[2].data());
        const std::int64_t shape[] = {static_cast<std::int64_t>(batch.count), static_cast<std::int64_t>(batch.tokens)};
        std::vector<const char*> names;
        std::vector<Ort::Value> values;
        for (const std::string& name : inputs_) {
          auto& input = numbers[place_of_input(name)];
          names.push_back(name.c_str());
          values.push_back(Ort::Value::CreateTensor<std::int64_t>(memory, input.data(), input.size(), shape, 2));
        }
        const std::vector<Ort::Value> given =
            session_.Run(Ort::RunOptions{nullptr}, names.data(), values.data(), values.size(), &output, 1);
        batches.keep(batch, given.front().GetTensorData<float>(), vectors);
      }
    } catch (const Ort::Exception& error) {
      throw Error(std::string("ONNX Runtime cannot run this batch: ") + error.what());
    }
  }

 private:
  Ort::Env environment_{ORT_LOGGING_LEVEL_ERROR, "m2d"};
  mutable Ort::Session session_{nullptr};  // its Run is safe from several threads at once, but not const
  std::vector<std::string> inputs_;
  std::string output_;
};

}  // namespace detail
}  // namespace m2d
