#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer.hpp"

namespace m2d {
namespace detail {

// On a CPU: the tokens of a batch, padding included, and the smallest length of its texts in percent of the longest.
// Both are as in Python (m2d_export/text/batches.py).
constexpr std::size_t cpu_token_budget = $token_budget, cpu_min_fill = $min_fill;

/// Texts of similar length for one call of the runtime: the `count` texts from place `first` on, padded to `tokens`.
struct Batch {
  std::size_t first, count, tokens;
};

/// The token ids of many texts in padded batches, longest first. Vectors go back into the order of the texts.
class Batches {
 public:
  /// `max_texts` gives the number of texts, at least 1, that one call takes, by the tokens of the longest of them.
  /// shorter than `min_fill` percent of the longest starts a new batch.
  template <typename Limit>
  Batches(const Tokenizer& tokenizer, const std::string_view* texts, std::size_t count, const Limit& max_texts,
          std::size_t min_fill)
      : tokenizer_(tokenizer), order_(count) {
    ids_.reserve(count);
    std::string prompted;
    for (const std::string_view* text = texts; text != texts + count; ++text) {
      if (tokenizer.prompt().empty()) {
        ids_.push_back(tokenizer.ids(*text));
      } else {
        prompted.assign(tokenizer.prompt()).append(*text);
        ids_.push_back(tokenizer.ids(prompted));
      }
    }
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    std::stable_sort(order_.begin(), order_.end(), [this](std::size_t left, std::size_t right) {
      return ids_[left].size() > ids_[right].size();
    });
    for (std::size_t first = 0; first < count;) {
      const std::size_t tokens = ids_[order_[first]].size();
      const std::size_t limit = std::min<std::size_t>(max_texts(tokens), count - first);
      std::size_t rows = 1;
      while (rows < limit && 100 * ids_[order_[first + rows]].size() >= min_fill * tokens) ++rows;
      batches_.push_back({first, rows, tokens});
      first += rows;
    }
  }

  const std::vector<Batch>& all() const { return batches_; }

  /// Fill the row-major inputs (batch.count, batch.tokens); `pooled` is null if the model has no such input.
  void fill(const Batch& batch, std::int64_t* ids, std::int64_t* attended, std::int64_t* pooled) const {
    for (std::size_t row = 0; row < batch.count; ++row) {
      const std::vector<std::int32_t>& own = ids_[order_[batch.first + row]];
      for (std::size_t place = 0; place < batch.tokens; ++place) {
        const bool real = place < own.size();
        *ids++ = real ? own[place] : tokenizer_.pad();
        *attended++ = real;
        if (pooled) *pooled++ = real && place >= tokenizer_.unpooled();
      }
    }
  }

  /// Copy the vectors (batch.count, dim) of a batch to the rows of their texts.
  void store(const Batch& batch, const float* given, float* vectors) const {
    const std::size_t dim = tokenizer_.dim();
    for (std::size_t row = 0; row < batch.count; ++row) {
      const float* const vector = given + row * dim;
      const std::size_t text = order_[batch.first + row];
      if (!std::all_of(vector, vector + dim, [](float number) { return std::isfinite(number); })) {
        throw Error("the vector of text " + std::to_string(text) +
                    " has NaN or infinity: export the cell again, in another precision");
      }
      std::copy_n(vector, dim, vectors + text * dim);
    }
  }

 private:
  const Tokenizer& tokenizer_;
  std::vector<std::vector<std::int32_t>> ids_;
  std::vector<std::size_t> order_;
  std::vector<Batch> batches_;
};

}  // namespace detail
}  // namespace m2d
