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

/// The graph in OpenVINO on the CPU: few batches with all threads each, many in parallel streams.
class Model {
 public:
  Model(const std::filesystem::path& folder, const Tokenizer& tokenizer, int threads) : threads_(threads) {
    const std::filesystem::path file = model_file(folder, "model.onnx");
    try {
      model_ = core().read_model(file.string());
    } catch (const std::exception& error) {
      throw Error("OpenVINO cannot read " + file.string() + ", copy it again: " + error.what());
    }
    const ov::PartialShape shape = model_->output(0).get_partial_shape();
    if (shape.size() != 2 || shape[1] != ov::Dimension(static_cast<std::int64_t>(tokenizer.dim()))) {
      throw of_another_export(file, tokenizer.dim());
    }
    bool has[3] = {};
    for (const auto& input : model_->inputs()) {
      const std::size_t place = place_of_input(input.get_any_name());
      if (place == 3 || input.get_element_type() != ov::element::i64) throw of_another_export(file, tokenizer.dim());
      has[place] = true;
    }
    if (!has[0] || !has[1]) throw of_another_export(file, tokenizer.dim());
    one_ = std::make_unique<Requests>(compiled(few));
  }

  static constexpr std::size_t least_fill = fill_on_processors;

  /// How many texts of up to `tokens` tokens go in one batch.
  std::size_t most_texts(std::size_t tokens) const { return std::max<std::size_t>(token_budget / tokens, 1); }

  /// Write the vectors of all batches, each to the rows of its texts. Safe from several threads at once.
  void run(const Batches& batches, float* vectors) const {
    const Batch* const begin = batches.all().data();
    const Batch* const end = begin + batches.all().size();
    try {
      if (batches.all().size() < many) return run(batches, begin, end, vectors, *one_, 1);
      const Batch* middle = std::find_if(begin, end, [](const Batch& batch) { return batch.tokens <= whole; });
      if (std::min(middle - begin, end - middle) < many) middle = middle - begin > end - middle ? end : begin;
      for (const Part& part : {Part{begin, middle, true}, Part{middle, end, false}}) {
        if (part.first == part.last) continue;
        Requests& streams = streams_for(part.is_long);
        // Two requests a stream: whichever stream is done first finds the next batch waiting.
        const std::size_t count = 2 * streams.compiled.get_property(ov::optimal_number_of_infer_requests);
        run(batches, part.first, part.last, vectors, streams, count);
      }
    } catch (const ov::Exception& error) {
      throw Error(std::string("OpenVINO cannot run this batch: ") + error.what());
    }
  }

 private:
  static constexpr int many = 16;  // batches that take about as long as compiling once more, for streams
  static constexpr std::size_t whole = 160;  // tokens beyond which attention is faster as one kernel

  inline static const ov::AnyMap few{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)};
  inline static const ov::AnyMap long_texts{ov::hint::performance_mode(ov::hint::PerformanceMode::THROUGHPUT)};
  // The kernel of a whole attention takes twice the time where the tokens are no multiple of 16: a tenth of a call for
  // short texts. In parts it does not, but goes through memory more often.
  inline static const ov::AnyMap short_texts{ov::hint::performance_mode(ov::hint::PerformanceMode::THROUGHPUT),
                                             {"SNIPPETS_MODE", "DISABLE"}};

  /// Batches from `first` to before `last`, and whether their texts are long.
  struct Part {
    const Batch *first, *last;
    bool is_long;
  };

  /// OpenVINO's core, one for the process and never freed: each gives this thread a stack for its signals, and frees it
  /// when it goes, whatever stands there by then.
  static ov::Core& core() {
    static ov::Core& only = *new ov::Core;
    return only;
  }

  /// A compiled graph and those of its requests that nobody uses now.
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

  /// A request at work, and the batch that it works on.
  struct Working {
    ov::InferRequest request;
    const Batch* batch = nullptr;
  };

  static void run(const Batches& batches, const Batch* first, const Batch* last, float* vectors, Requests& requests,
                  std::size_t count) {
    std::vector<Working> working(std::min(count, static_cast<std::size_t>(last - first)));
    try {
      for (Working& each : working) each.request = requests.take();
      std::size_t turn = 0;
      for (const Batch* batch = first; batch != last; ++batch) {
        Working& each = working[turn++ % working.size()];
        collect(each, batches, vectors);
        start(each, *batch, batches);
      }
      for (Working& each : working) collect(each, batches, vectors);
    } catch (...) {  // none is given back: a request that has failed would fail again
      for (Working& each : working) {
        if (each.batch) each.request.cancel();
      }
      throw;
    }
    for (Working& each : working) requests.give_back(std::move(each.request));
  }

  static void start(Working& each, const Batch& batch, const Batches& batches) {
    const auto inputs = each.request.get_compiled_model().inputs();
    std::int64_t* filled[3] = {};
    for (const auto& input : inputs) {
      ov::Tensor tensor = each.request.get_tensor(input);
      tensor.set_shape({batch.count, batch.tokens});
      filled[place_of_input(input.get_any_name())] = tensor.data<std::int64_t>();
    }
    batches.fill(batch, filled[0], filled[1], filled[2]);
    each.request.start_async();
    each.batch = &batch;
  }

  static void collect(Working& each, const Batches& batches, float* vectors) {
    if (!each.batch) return;
    each.request.wait();
    batches.keep(*each.batch, each.request.get_output_tensor(0).data<float>(), vectors);
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
    // Untold, OpenVINO would compute in bf16 on processors that have it.
    settings.insert(ov::hint::inference_precision(ov::element::f32));
    if (threads_ > 0) settings.insert(ov::inference_num_threads(threads_));
    ov::CompiledModel compiled;
    try {
      compiled = core().compile_model(model_, "CPU", settings);
    } catch (const std::exception& error) {
      throw Error(std::string("OpenVINO cannot compile model.onnx: ") + error.what());
    }
    if (compiled.get_property(ov::hint::inference_precision) != ov::element::f32) {
      throw Error("OpenVINO does not compute in f32 here, as it was told to: use another version of it");
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
