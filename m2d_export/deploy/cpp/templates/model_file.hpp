#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <system_error>

#include "tokenizer.hpp"

namespace m2d {
namespace detail {

/// The file of this name in a folder; throws Error where there is none.
inline std::filesystem::path model_file(const std::filesystem::path& folder, const char* name) {
  const std::filesystem::path file = folder / name;
  std::error_code error;  // of a folder that may not be entered, say: then it is missing too
  if (!std::filesystem::is_regular_file(file, error)) {
    throw Error(file.string() + " is missing: give the folder that it and vocabulary.bin lie in");
  }
  return file;
}

/// Which of the inputs that `Batches::fill` fills a graph calls so: ids, mask, mask of the pooled; 3 for none of them.
inline std::size_t place_of_input(const std::string& name) {
  return name == "input_ids" ? 0 : name == "attention_mask" ? 1 : name == "pooling_mask" ? 2 : 3;
}

/// What is wrong with a model whose vectors are not those that the vocabulary speaks of.
inline Error of_another_export(const std::filesystem::path& file, std::size_t dim) {
  return Error(file.string() + " and vocabulary.bin beside it are of different exports: the vocabulary's vectors have " +
               std::to_string(dim) + " numbers");
}

}  // namespace detail
}  // namespace m2d
