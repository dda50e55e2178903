// A stand-in for CUDA on the CPU: the part of its interface that m2d_encoder.hpp calls. It is strict: work in a stream
// is only done when the program waits for it, memory of the GPU is told from that of the host, and the use of a wrong GPU
// ends the program. Call number $STANDIN_FAILS of CUDA or TensorRT fails; the first call is number 1.
#pragma once

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <mutex>
#include <vector>

enum cudaError_t { cudaSuccess, cudaErrorUnknown };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost };
constexpr unsigned cudaStreamNonBlocking = 1;

namespace standin {
constexpr int gpus = 2;

inline void demand(bool holds, const char* what) {
  if (holds) return;
  std::cerr << "stand-in: " << what << '\n';
  std::abort();
}

inline bool fails() {
  static std::atomic<int> calls{0};
  static const char* const failing = std::getenv("STANDIN_FAILS");
  return ++calls == (failing ? std::atoi(failing) : 0);
}

/// Every thread begins on the first GPU, and has to end there.
struct Current {
  int gpu = 0;
  ~Current() { demand(gpu == 0, "a thread was left on another GPU"); }
};
inline thread_local Current current;

struct Memory {
  std::size_t size;
  int gpu;
};
inline std::mutex mutex;
inline std::map<const char*, Memory> memories;

/// Whether so many bytes are in one piece of this GPU's memory.
inline bool on_gpu(const void* place, std::size_t size) {
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = memories.find(static_cast<const char*>(place));
  return found != memories.end() && size <= found->second.size && found->second.gpu == current.gpu;
}

struct Stream {
  int gpu;
  std::vector<std::function<void()>> waiting;
};
}  // namespace standin

using cudaStream_t = standin::Stream*;

inline const char* cudaGetErrorString(cudaError_t) { return "it failed, as it was told to"; }

inline cudaError_t cudaGetDevice(int* gpu) {
  *gpu = standin::current.gpu;
  return standin::fails() ? cudaErrorUnknown : cudaSuccess;
}

inline cudaError_t cudaSetDevice(int gpu) {
  if (gpu < 0 || gpu >= standin::gpus) return cudaErrorUnknown;
  if (gpu != 0 && standin::fails()) return cudaErrorUnknown;  // back to the first: where nothing can be done about it
  standin::current.gpu = gpu;
  return cudaSuccess;
}

inline cudaError_t cudaMalloc(void** memory, std::size_t size) {
  if (standin::fails()) return cudaErrorUnknown;
  *memory = std::malloc(size);
  std::memset(*memory, 0x7F, size);
  const std::lock_guard<std::mutex> lock(standin::mutex);
  standin::memories[static_cast<const char*>(*memory)] = {size, standin::current.gpu};
  return cudaSuccess;
}

inline cudaError_t cudaFree(void* memory) {
  const std::lock_guard<std::mutex> lock(standin::mutex);
  standin::demand(standin::memories.erase(static_cast<const char*>(memory)) == 1, "freed what was not allocated");
  std::free(memory);
  return cudaSuccess;
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  if (standin::fails()) return cudaErrorUnknown;
  *stream = new standin::Stream{standin::current.gpu, {}};
  return cudaSuccess;
}

inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t size, cudaMemcpyKind kind, cudaStream_t stream) {
  if (standin::fails()) return cudaErrorUnknown;
  const bool up = kind == cudaMemcpyHostToDevice;
  standin::demand(standin::on_gpu(up ? to : from, size) && !standin::on_gpu(up ? from : to, 0), "copied the wrong way");
  standin::demand(stream->gpu == standin::current.gpu, "a stream of another GPU");
  stream->waiting.push_back([=] { std::memcpy(to, from, size); });
  return cudaSuccess;
}

inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (standin::fails()) return cudaErrorUnknown;
  for (const auto& work : stream->waiting) work();
  stream->waiting.clear();
  return cudaSuccess;
}
