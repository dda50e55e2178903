// Tokenizes random bytes: fuzz VOCABULARY COUNT SEED. It is compiled with sanitizers, which report errors.
#include <cstdlib>
#include <iostream>
#include <random>
#include <string>

#include "tokenizer.hpp"

int main(int, char** arguments) {
  const m2d::Tokenizer tokenizer(arguments[1]);
  std::mt19937_64 chance(std::strtoull(arguments[3], nullptr, 10));
  const std::string parts[] = {"[MASK]", "[SEP", "\xCC\x81", "\xEF\xBF\xBD", "\xEA\xB0\x81", "\xF0\x9D\x85\xA5", " ", "e"};
  for (auto left = std::strtoull(arguments[2], nullptr, 10); left > 0; --left) {
    std::string text;
    for (auto size = chance() % (left % 1000 == 0 ? 3000 : 40); size > 0; --size) {
      const auto drawn = chance();
      const bool whole = drawn % 4 == 0;  // random bytes are rarely whole characters
      text += whole ? parts[drawn / 4 % std::size(parts)] : std::string(1, static_cast<char>(drawn / 4));
    }
    const std::string owned(text.begin(), text.end());  // without spare bytes at its end
    const auto ids = tokenizer.ids(owned);
    if (ids.empty() || ids.size() > tokenizer.max_tokens()) {
      std::cerr << ids.size() << " ids\n";
      return 1;
    }
  }
}
