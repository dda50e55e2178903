// Writes, for each text, how many ids it has and what they are: int32.
#include "messages.hpp"
#include "tokenizer.hpp"

int main(int, char** arguments) {
  const m2d::Tokenizer tokenizer(arguments[1]);
  for (const std::string& text : read_texts()) {
    const std::vector<std::int32_t> ids = tokenizer.ids(text);
    write(std::vector<std::int32_t>{static_cast<std::int32_t>(ids.size())});
    write(ids);
  }
}
