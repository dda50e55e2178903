#pragma once

#include <algorithm>
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

constexpr std::size_t token_budget = 512;  // tokens a batch on processors, padding included
constexpr std::size_t fill_on_processors = 67;  // percent of its place in a batch that a text fills, at the least

/// Texts of similar length for one call of the runtime: `count` of the order from `first` on, padded to `tokens`.
struct Batch {
  std::size_t first, count, tokens;
};

/// The token ids of many texts in padded batches, longest first, and their vectors back in the order of the texts.
class Batches {
 public:
  /// `most_texts` says how many texts of up to so many tokens, from 1 on, the runtime takes in one call; a text that
  /// would fill less than `least_fill` percent of its place in a batch begins the next.
  template <typename Limit>
  Batches(const Tokenizer& tokenizer, const std::string_view* texts, std::size_t count, const Limit& most_texts,
          std::size_t least_fill)
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
      const std::size_t most = std::min<std::size_t>(most_texts(tokens), count - first);
      std::size_t rows = 1;
      while (rows < most && 100 * ids_[order_[first + rows]].size() >= least_fill * tokens) ++rows;
      batches_.push_back({first, rows, tokens});
      first += rows;
    }
  }

  const std::vector<Batch>& all() const { return batches_; }

  /// Fill (batch.count, batch.tokens) row-major inputs; `pooled` may be null where the graph has no such input.
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

  /// Copy the vectors (batch.count, dim) of a batch to where their texts stand among `vectors`.
  void keep(const Batch& batch, const float* given, float* vectors) const {
    const std::size_t dim = tokenizer_.dim();
    for (std::size_t row = 0; row < batch.count; ++row) {
      std::copy_n(given + row * dim, dim, vectors + order_[batch.first + row] * dim);
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
