#pragma once

#include <cstddef>
#include <filesystem>
#include <string_view>
#include <vector>

#include "batches.hpp"
#include "model.hpp"

namespace m2d {

/// Texts in, vectors out. Const use from several threads at once is safe.
class Encoder {
 public:
  /// Load the folder that vocabulary.bin and the model lie in, to run on `where`: so many threads, 0 for every core;
  /// with TensorRT, the GPU of this number. Throws Error.
  explicit Encoder(const std::filesystem::path& folder, int where = 0)
      : tokenizer_(folder / "vocabulary.bin"), model_(folder, tokenizer_, where) {}

  /// The vectors of texts in their order, row-major (count, dim()). The checkpoint's default prompt, if it has one,
  /// is put before each. Bytes that are not UTF-8 are read as Python's decode(errors="replace") reads them. Throws
  /// Error where the runtime fails.
  std::vector<float> encode(const std::string_view* texts, std::size_t count) const {
    std::vector<float> vectors(count * dim());
    if (count == 0) return vectors;
    const auto most_texts = [this](std::size_t tokens) { return model_.most_texts(tokens); };
    model_.run(detail::Batches(tokenizer_, texts, count, most_texts, detail::Model::least_fill), vectors.data());
    return vectors;
  }

  /// The same of a vector of texts, or of a list such as {"one", "two"}.
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
