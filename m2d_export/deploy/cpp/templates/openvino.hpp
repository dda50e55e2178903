#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <mutex>
#include <openvino/openvino.hpp>
#include <string>
#include <utility>
#include <vector>

#include "batches.hpp"
#include "model_file.hpp"

namespace m2d {
namespace detail {

/// The graph in OpenVINO on the CPU. A few batches run with all threads each, many in parallel streams.
class Model {
 public:
  Model(const std::filesystem::path& folder, const Tokenizer& tokenizer, int threads) : threads_(threads) {
    const std::filesystem::path file = model_file(folder, "model.onnx");
    try {
      model_ = core().read_model(file.string());
    } catch (const std::exception& error) {
      throw Error("OpenVINO cannot read " + file.string() + " (copy it again): " + error.what());
    }
    const ov::PartialShape shape = model_->output(0).get_partial_shape();
    if (shape.size() != 2 || shape[1] != ov::Dimension(static_cast<std::int64_t>(tokenizer.dim()))) {
      throw other_export(file, tokenizer.dim());
    }
    std::vector<std::string> names;
    for (const auto& input : model_->inputs()) {
      if (input.get_element_type() != ov::element::i64) throw other_export(file, tokenizer.dim());
      names.push_back(input.get_any_name());
    }
    check_inputs(names, file, tokenizer.dim());
    one_ = std::make_unique<Requests>(compiled(few));
  }

  static constexpr std::size_t min_fill = cpu_min_fill;

  /// How many texts of at most `tokens` tokens go in one batch.
  std::size_t max_texts(std::size_t tokens) const { return std::max<std::size_t>(cpu_token_budget / tokens, 1); }

  /// Write the vectors of all batches to the rows of their texts. Several threads may call it at the same time.
  void run(const Batches& batches, float* vectors) const {
    const Batch* const begin = batches.all().data();
    const Batch* const end = begin + batches.all().size();
    try {
      if (batches.all().size() < many) return run(batches, begin, end, vectors, *one_, 1);
      const Batch* middle = std::find_if(begin, end, [](const Batch& batch) { return batch.tokens <= short_tokens; });
      if (std::min(middle - begin, end - middle) < many) middle = middle - begin > end - middle ? end : begin;
      for (const Part& part : {Part{begin, middle, true}, Part{middle, end, false}}) {
        if (part.first == part.last) continue;
        Requests& streams = streams_for(part.is_long);
        // Two requests for each stream: a stream that finishes finds its next batch waiting.
        const std::size_t count = 2 * streams.compiled.get_property(ov::optimal_number_of_infer_requests);
        run(batches, part.first, part.last, vectors, streams, count);
      }
    } catch (const ov::Exception& error) {
      throw Error(std::string("OpenVINO cannot run this batch: ") + error.what());
    }
  }

 private:
  static constexpr int many = 16;  // with fewer batches, compiling for streams takes longer than it saves
  static constexpr std::size_t short_tokens = 160;  // beyond, attention is faster as one kernel

  inline static const ov::AnyMap few{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)};
  inline static const ov::AnyMap long_texts{ov::hint::performance_mode(ov::hint::PerformanceMode::THROUGHPUT)};
  // The kernel for a whole attention is slow for token counts that are not a multiple of 16. Separate kernels are not,
  // but they move more memory, so short texts use them and long texts do not.
  inline static const ov::AnyMap short_texts{ov::hint::performance_mode(ov::hint::PerformanceMode::THROUGHPUT),
                                             {"SNIPPETS_MODE", "DISABLE"}};

  /// The batches from `first` up to, not including, `last`; `is_long` tells whether their texts are long.
  struct Part {
    const Batch *first, *last;
    bool is_long;
  };

  /// OpenVINO's core: one for the process, and never freed. A core gives its thread a stack for signals. Its destructor
  /// frees the thread's signal stack of that time, which may belong to other code.
  static ov::Core& core() {
    static ov::Core& only = *new ov::Core;
    return only;
  }

  /// A compiled graph and its idle requests.
  struct Requests {
    explicit Requests(ov::CompiledModel model) : compiled(std::move(model)) {}

    ov::InferRequest take() {
      {
        const std::lock_guard<std::mutex> lock(mutex);
        if (!idle.empty()) {
          ov::InferRequest request = std::move(idle.back());
          idle.pop_back();
          return request;
        }
      }
      return compiled.create_infer_request();
    }

    void give_back(ov::InferRequest request) {
      const std::lock_guard<std::mutex> lock(mutex);
      idle.push_back(std::move(request));
    }

    ov::CompiledModel compiled;
    std::mutex mutex;
    std::vector<ov::InferRequest> idle;
  };

  /// A running request and its batch.
  struct Running {
    ov::InferRequest request;
    const Batch* batch = nullptr;
  };

  static void run(const Batches& batches, const Batch* first, const Batch* last, float* vectors, Requests& requests,
                  std::size_t count) {
    std::vector<Running> running(std::min(count, static_cast<std::size_t>(last - first)));
    try {
      for (Running& each : running) each.request = requests.take();
      std::size_t turn = 0;
      for (const Batch* batch = first; batch != last; ++batch) {
        Running& each = running[turn++ % running.size()];
        collect(each, batches, vectors);
        start(each, *batch, batches);
      }
      for (Running& each : running) collect(each, batches, vectors);
    } catch (...) {  // no request is given back: one that has failed would fail again
      for (Running& each : running) {
        if (each.batch) each.request.cancel();
      }
      throw;
    }
    for (Running& each : running) requests.give_back(std::move(each.request));
  }

  static void start(Running& each, const Batch& batch, const Batches& batches) {
    const auto inputs = each.request.get_compiled_model().inputs();
    std::int64_t* filled[input_count] = {};
    for (const auto& input : inputs) {
      ov::Tensor tensor = each.request.get_tensor(input);
      tensor.set_shape({batch.count, batch.tokens});
      filled[input_number(input.get_any_name())] = tensor.data<std::int64_t>();
    }
    batches.fill(batch, filled[0], filled[1], filled[2]);
    each.request.start_async();
    each.batch = &batch;
  }

  static void collect(Running& each, const Batches& batches, float* vectors) {
    if (!each.batch) return;
    each.request.wait();
    batches.store(*each.batch, each.request.get_output_tensor(0).data<float>(), vectors);
    each.batch = nullptr;
  }

  Requests& streams_for(bool is_long) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::unique_ptr<Requests>& streams = is_long ? long_ : short_;
    if (!streams) streams = std::make_unique<Requests>(compiled(is_long ? long_texts : short_texts));
    return *streams;
  }

  ov::CompiledModel compiled(const ov::AnyMap& hints) const {
    ov::AnyMap settings = hints;
    // By default OpenVINO computes in bf16 on processors that have it.
    settings.insert(ov::hint::inference_precision(ov::element::f32));
    if (threads_ > 0) settings.insert(ov::inference_num_threads(threads_));
    ov::CompiledModel compiled;
    try {
      compiled = core().compile_model(model_, "CPU", settings);
    } catch (const std::exception& error) {
      throw Error(std::string("OpenVINO cannot compile model.onnx: ") + error.what());
    }
    if (compiled.get_property(ov::hint::inference_precision) != ov::element::f32) {
      throw Error("OpenVINO was asked to compute in f32 but does not: use another version of OpenVINO");
    }
    return compiled;
  }

  std::shared_ptr<ov::Model> model_;
  int threads_;
  std::unique_ptr<Requests> one_;
  mutable std::mutex mutex_;
  mutable std::unique_ptr<Requests> long_, short_;
};

}  // namespace detail
}  // namespace m2d
