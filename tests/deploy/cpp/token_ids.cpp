// Writes the number of ids of each text, and the ids, as int32: token_ids VOCABULARY.
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
