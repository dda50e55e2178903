#pragma once

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "batches.hpp"
#include "model_file.hpp"

namespace m2d {
namespace detail {

/// Throw if a call of CUDA failed.
inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw Error(std::string("CUDA cannot ") + what + ": " + cudaGetErrorString(status));
}

/// Keeps TensorRT's last error message: TensorRT gives it to its log only, not to its caller.
class Log : public nvinfer1::ILogger {
 public:
  /// The log of this process. There is one, because TensorRT keeps the first log that it gets.
  static Log& shared() {
    static Log log;
    return log;
  }

  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    std::snprintf(last_, sizeof last_, "%s", message);
  }

  /// Throw if a call of TensorRT failed.
  void check(bool done, const std::string& what) {
    if (done) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    const std::string reason = last_[0] ? last_ : "TensorRT gave no reason";
    last_[0] = '\0';
    throw Error("TensorRT cannot " + what + ": " + reason);
  }

 private:
  std::mutex mutex_;
  char last_[1024] = "";  // log() must not throw, so it must not allocate
};

/// Makes a GPU the current one of this thread until the end of the scope.
class OnGpu {
 public:
  explicit OnGpu(int gpu) {
    check(cudaGetDevice(&before_), "find a GPU (nvidia-smi lists them)");
    const std::string what = "use GPU " + std::to_string(gpu) + " (nvidia-smi lists them)";
    check(cudaSetDevice(gpu), what.c_str());
  }
  ~OnGpu() { cudaSetDevice(before_); }  // cannot fail: this GPU was in use before
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;

 private:
  int before_ = 0;
};

/// Memory on the GPU.
template <typename Number>
class OnDevice {
 public:
  explicit OnDevice(std::size_t count) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, count * sizeof(Number)), "allocate memory");
    memory_.reset(static_cast<Number*>(memory));
  }

  Number* get() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(Number* memory) const { cudaFree(memory); }  // its status would be that of an earlier call
  };
  std::unique_ptr<Number, Free> memory_;
};

/// A CUDA stream.
class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "create a stream"); }
  ~Stream() { cudaStreamDestroy(stream_); }  // its status would be that of an earlier call
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// An engine in TensorRT on one GPU. Batches run one after the other in one stream; vectors are cut and scaled here.
class Model {
 public:
  Model(const std::filesystem::path& folder, const Tokenizer& tokenizer, int gpu) : tokenizer_(tokenizer), gpu_(gpu) {
    const std::filesystem::path file = model_file(folder, "model.plan");
    const std::vector<char> plan = read(file);
    const OnGpu current(gpu_);
    stream_ = std::make_unique<Stream>();
    runtime_.reset(nvinfer1::createInferRuntime(log_));
    log_.check(runtime_ != nullptr, "start");
    engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
    log_.check(engine_ != nullptr, "load " + file.string() + " (README.md names the library and GPU that it needs)");
    find_tensors(file);
    find_profiles();
    context_.reset(engine_->createExecutionContext());
    log_.check(context_ != nullptr, "prepare " + file.string());
    std::size_t tokens = 0, texts = 0;
    for (const Profile& profile : profiles_) {
      tokens = std::max(tokens, profile.max_texts * profile.max_tokens);
      texts = std::max(texts, profile.max_texts);
    }
    for (Input& input : inputs_) {
      input.memory = std::make_unique<OnDevice<std::int64_t>>(tokens);
      address(input.name, input.memory->get());
    }
    output_memory_ = std::make_unique<OnDevice<float>>(texts * width_);
    address(output_, output_memory_->get());
  }

  static constexpr std::size_t min_fill = 0;  // another call costs more than padding

  /// How many texts of at most `tokens` tokens go in one batch: as many as the engine was built for.
  std::size_t max_texts(std::size_t tokens) const { return profile_of(tokens).max_texts; }

  /// Write the vectors of all batches to the rows of their texts. Threads take turns.
  void run(const Batches& batches, float* vectors) const {
    const std::lock_guard<std::mutex> turn(turn_);
    const OnGpu current(gpu_);
    for (Batch batch : batches.all()) {
      const Profile& profile = profile_of(batch.tokens);
      batch.tokens = std::max(batch.tokens, profile.min_tokens);
      start(batch, profile, batches);
      check(cudaStreamSynchronize(stream_->get()), "run a batch");
      scale(batch.count);
      batches.store(batch, given_.data(), vectors);
    }
  }

 private:
  /// An input of the engine: its numbers on the host, and its memory on the GPU.
  struct Input {
    std::string name;
    std::vector<std::int64_t> numbers;
    std::unique_ptr<OnDevice<std::int64_t>> memory;
  };

  /// An optimisation profile: shapes that the engine was tuned for together.
  struct Profile {
    std::int32_t number;
    std::size_t max_texts, min_tokens, max_tokens;
  };

  static std::vector<char> read(const std::filesystem::path& file) {
    std::ifstream stream(file, std::ios::binary);
    std::vector<char> content{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
    if (!stream.is_open() || stream.bad()) throw Error(file.string() + " cannot be read: copy it again");
    return content;
  }

  /// Find the engine's inputs, and its output, whose width is at least the dim.
  void find_tensors(const std::filesystem::path& file) {
    std::vector<std::string> names;
    for (std::int32_t place = 0; place < engine_->getNbIOTensors(); ++place) {
      const std::string name = engine_->getIOTensorName(place);
      const nvinfer1::Dims shape = engine_->getTensorShape(name.c_str());
      const nvinfer1::DataType type = engine_->getTensorDataType(name.c_str());
      if (engine_->getTensorIOMode(name.c_str()) == nvinfer1::TensorIOMode::kINPUT) {
        if (type != nvinfer1::DataType::kINT64 || shape.nbDims != 2) throw other_export(file, dim());
        names.push_back(name);
        inputs_.push_back({name, {}, nullptr});
      } else {
        if (!output_.empty() || type != nvinfer1::DataType::kFLOAT || shape.nbDims != 2 || shape.d[1] < 1 ||
            static_cast<std::size_t>(shape.d[1]) < dim()) {
          throw other_export(file, dim());
        }
        output_ = name;
        width_ = static_cast<std::size_t>(shape.d[1]);
      }
    }
    check_inputs(names, file, dim());
    if (output_.empty()) throw other_export(file, dim());
  }

  void find_profiles() {
    const char* const name = inputs_.front().name.c_str();
    for (std::int32_t number = 0; number < engine_->getNbOptimizationProfiles(); ++number) {
      const nvinfer1::Dims min = engine_->getProfileShape(name, number, nvinfer1::OptProfileSelector::kMIN);
      const nvinfer1::Dims max = engine_->getProfileShape(name, number, nvinfer1::OptProfileSelector::kMAX);
      log_.check(min.nbDims == 2 && max.nbDims == 2, "give the shapes that model.plan was built for");
      profiles_.push_back({number, static_cast<std::size_t>(max.d[0]), static_cast<std::size_t>(min.d[1]),
                           static_cast<std::size_t>(max.d[1])});
    }
    std::stable_sort(profiles_.begin(), profiles_.end(), [](const Profile& left, const Profile& right) {
      return left.max_tokens < right.max_tokens;
    });
  }

  /// The narrowest profile that takes texts of this many tokens.
  const Profile& profile_of(std::size_t tokens) const {
    const auto found = std::find_if(profiles_.begin(), profiles_.end(),
                                    [tokens](const Profile& profile) { return tokens <= profile.max_tokens; });
    if (found == profiles_.end()) {
      throw Error("model.plan does not take texts of " + std::to_string(tokens) +
                  " tokens: build it with --shapes that end at " + std::to_string(tokenizer_.max_tokens()) + " tokens");
    }
    return *found;
  }

  /// Queue a batch in the stream: copy its inputs to the GPU, run the engine, copy the vectors back.
  void start(const Batch& batch, const Profile& profile, const Batches& batches) const {
    if (profile.number != profile_) {
      profile_ = -1;
      log_.check(context_->setOptimizationProfileAsync(profile.number, stream_->get()), "change the profile");
      profile_ = profile.number;
    }
    std::int64_t* filled[input_count] = {};
    for (Input& input : inputs_) {
      input.numbers.resize(batch.count * batch.tokens);
      filled[input_number(input.name)] = input.numbers.data();
    }
    batches.fill(batch, filled[0], filled[1], filled[2]);
    const nvinfer1::Dims2 shape(static_cast<std::int64_t>(batch.count), static_cast<std::int64_t>(batch.tokens));
    for (const Input& input : inputs_) {
      log_.check(context_->setInputShape(input.name.c_str(), shape),
                 "take a batch of " + std::to_string(batch.count) + " x " + std::to_string(batch.tokens) + " tokens");
      check(cudaMemcpyAsync(input.memory->get(), input.numbers.data(), input.numbers.size() * sizeof(std::int64_t),
                            cudaMemcpyHostToDevice, stream_->get()),
            "copy to the GPU");
    }
    log_.check(context_->enqueueV3(stream_->get()), "run a batch");
    given_.resize(batch.count * width_);
    check(cudaMemcpyAsync(given_.data(), output_memory_->get(), given_.size() * sizeof(float), cudaMemcpyDeviceToHost,
                          stream_->get()),
          "copy from the GPU");
  }

  /// Cut each vector to its first numbers, in place, and scale it to unit length if the checkpoint does.
  void scale(std::size_t count) const {
    for (std::size_t row = 0; row < count; ++row) {
      float* const vector = given_.data() + row * dim();
      std::copy_n(given_.data() + row * width_, dim(), vector);  // in place: the target never lies behind the source
      if (!tokenizer_.unit_length()) continue;
      float squares = 0;
      for (std::size_t place = 0; place < dim(); ++place) squares += vector[place] * vector[place];
      const float length = std::max(std::sqrt(squares), 1e-12f);  // a zero vector stays zero
      for (std::size_t place = 0; place < dim(); ++place) vector[place] /= length;
    }
  }

  void address(const std::string& name, void* memory) {
    log_.check(context_->setTensorAddress(name.c_str(), memory), "use the memory of " + name);
  }

  std::size_t dim() const { return tokenizer_.dim(); }

  Log& log_ = Log::shared();
  const Tokenizer& tokenizer_;
  int gpu_;
  std::string output_;
  std::size_t width_ = 0;
  std::vector<Profile> profiles_;           // the narrowest first
  mutable std::mutex turn_;                 // guards the members below
  mutable std::int32_t profile_ = -1;       // the current one
  mutable std::vector<Input> inputs_;
  mutable std::vector<float> given_;
  std::unique_ptr<OnDevice<float>> output_memory_;
  std::unique_ptr<Stream> stream_;  // members are freed last to first: context, engine, runtime, stream
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
};

}  // namespace detail
}  // namespace m2d
