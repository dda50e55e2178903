#pragma once

#include <cstddef>
#include <filesystem>
#include <string_view>
#include <vector>

#include "batches.hpp"
#include "model.hpp"

namespace m2d {

/// Texts in, vectors out. Several threads may use one const Encoder at the same time.
class Encoder {
 public:
  /// Load the folder that holds vocabulary.bin and the model. `where` is the number of threads, 0 for every core; with
  /// TensorRT it is the number of the GPU. Throws Error.
  explicit Encoder(const std::filesystem::path& folder, int where = 0)
      : tokenizer_(folder / "vocabulary.bin"), model_(folder, tokenizer_, where) {}

  /// The vectors of texts in their order, row-major (count, dim()). The checkpoint's default prompt, if it has one, is
  /// put before each text. Bytes that are not UTF-8 are read as Python's decode(errors="replace") reads them. Throws
  /// Error if the runtime fails.
  std::vector<float> encode(const std::string_view* texts, std::size_t count) const {
    std::vector<float> vectors(count * dim());
    if (count == 0) return vectors;
    const auto max_texts = [this](std::size_t tokens) { return model_.max_texts(tokens); };
    model_.run(detail::Batches(tokenizer_, texts, count, max_texts, detail::Model::min_fill), vectors.data());
    return vectors;
  }

  /// The same for a vector of texts, or for a list such as {"one", "two"}.
  std::vector<float> encode(const std::vector<std::string_view>& texts) const {
    return encode(texts.data(), texts.size());
  }

  std::size_t dim() const { return tokenizer_.dim(); }  ///< Numbers in a vector.
  const Tokenizer& tokenizer() const { return tokenizer_; }

 private:
  Tokenizer tokenizer_;
  detail::Model model_;
};

}  // namespace m2d
