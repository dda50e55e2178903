#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "tokenizer.hpp"

namespace m2d {
namespace detail {

/// The file `name` in a folder; throws Error if there is none.
inline std::filesystem::path model_file(const std::filesystem::path& folder, const char* name) {
  const std::filesystem::path file = folder / name;
  std::error_code error;  // a folder that cannot be entered does not throw: its file counts as missing
  if (!std::filesystem::is_regular_file(file, error)) {
    throw Error(file.string() + " is missing: give the folder that holds it and vocabulary.bin");
  }
  return file;
}

constexpr std::size_t input_count = 3;

/// Which input a name means: the token ids (0), their mask (1), the mask of the pooled tokens (2), or no input (3).
inline std::size_t input_number(const std::string& name) {
  return name == "input_ids" ? 0 : name == "attention_mask" ? 1 : name == "pooling_mask" ? 2 : input_count;
}

/// The error for a model that does not belong to its vocabulary.
inline Error other_export(const std::filesystem::path& file, std::size_t dim) {
  return Error(file.string() + " and vocabulary.bin do not belong together: the vocabulary is for vectors of " +
               std::to_string(dim) + " numbers. Export the folder again");
}

/// Throw unless these are the inputs of a model of this package: token ids, their mask, and perhaps the pooling mask.
inline void check_inputs(const std::vector<std::string>& names, const std::filesystem::path& file, std::size_t dim) {
  std::size_t found[input_count + 1] = {};
  for (const std::string& name : names) ++found[input_number(name)];
  if (found[0] != 1 || found[1] != 1 || found[2] > 1 || found[input_count] != 0) throw other_export(file, dim);
}

}  // namespace detail
}  // namespace m2d
