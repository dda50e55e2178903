#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace m2d {

/// Every error that this file throws. The message says what happened, what was expected, and how to fix it.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace detail {

/// Read the character at `place` and move `place` past it. Bytes that are not UTF-8 become as many U+FFFD as Python's
/// bytes.decode(errors="replace") makes of them.
inline char32_t next_character(std::string_view text, std::size_t& place) {
  const auto byte_at = [text](std::size_t at) { return at < text.size() ? static_cast<unsigned char>(text[at]) : 0u; };
  const unsigned first = byte_at(place++);
  if (first < 0x80) return first;
  const int count = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;
  if (first < 0xC2 || first > 0xF4) return 0xFFFD;
  // The second byte decides that there are no overlong forms, no surrogates and nothing above U+10FFFF.
  unsigned least = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  unsigned most = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  char32_t character = first & (0x3Fu >> count);
  for (int left = count; left > 0; --left) {
    const unsigned byte = byte_at(place);
    if (byte < least || byte > most) return 0xFFFD;
    character = character << 6 | (byte & 0x3F);
    least = 0x80, most = 0xBF;
    ++place;
  }
  return character;
}

/// Append a character to a string as UTF-8.
inline void append(std::string& word, char32_t character) {
  const auto put = [&word](char32_t byte) { word.push_back(static_cast<char>(byte)); };
  if (character < 0x80) {
    put(character);
  } else if (character < 0x800) {
    put(0xC0 | character >> 6);
    put(0x80 | (character & 0x3F));
  } else if (character < 0x10000) {
    put(0xE0 | character >> 12);
    put(0x80 | (character >> 6 & 0x3F));
    put(0x80 | (character & 0x3F));
  } else {
    put(0xF0 | character >> 18);
    put(0x80 | (character >> 12 & 0x3F));
    put(0x80 | (character >> 6 & 0x3F));
    put(0x80 | (character & 0x3F));
  }
}

/// Reads vocabulary.bin: little-endian numbers, and strings and lists, each with its length before it.
class Reader {
 public:
  Reader(std::string_view content, std::string name) : rest_(content), name_(std::move(name)) {}

  std::string_view bytes(std::size_t count) {
    if (count > rest_.size()) throw Error(name_ + " ends too early: export the folder again");
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }

  std::uint64_t little_endian(int width) {
    const std::string_view taken = bytes(static_cast<std::size_t>(width));
    std::uint64_t value = 0;
    for (int place = width - 1; place >= 0; --place) {
      value = value << 8 | static_cast<unsigned char>(taken[static_cast<std::size_t>(place)]);
    }
    return value;
  }

  std::uint32_t number() { return static_cast<std::uint32_t>(little_endian(4)); }
  std::string_view string() { return bytes(number()); }

  template <typename Number>
  std::vector<Number> numbers() {
    std::vector<Number> items;
    for (std::uint32_t left = number(); left > 0; --left) items.push_back(static_cast<Number>(number()));
    return items;
  }

 private:
  std::string_view rest_;
  std::string name_;
};

/// What is done to a character, in this order. The bits from Order on are its place among combining characters.
enum Trait : std::uint32_t {
  Skipped = 1,       // ignored
  Padded = 2,        // a word by itself
  Decomposed = 4,    // replaced by other characters
  Hangul = 8,        // replaced by its letters, which are computed from its number
  Mark = 16,         // dropped after combining characters are put in order
  Lowered = 32,      // replaced by its lower case
  Space = 64,        // ends a word
  Punctuation = 128  // a word by itself
};
constexpr int Order = 8;

/// Characters, and the characters that replace each of them.
class Replacements {
 public:
  void read(Reader& reader) {
    for (std::uint32_t left = reader.number(); left > 0; --left) {
      codes_.push_back(reader.number());
      characters_.push_back(reader.numbers<char32_t>());
    }
  }

  const std::vector<char32_t>& of(char32_t character) const {
    const auto found = std::lower_bound(codes_.begin(), codes_.end(), character);
    return characters_[static_cast<std::size_t>(found - codes_.begin())];
  }

 private:
  std::vector<char32_t> codes_;  // ascending
  std::vector<std::vector<char32_t>> characters_;
};

/// Tokens by their text. The text is a view into the bytes of the file.
class Pieces {
 public:
  void read(Reader& reader) {
    for (std::uint32_t left = reader.number(); left > 0; --left) {
      const auto id = static_cast<std::int32_t>(reader.number());
      const std::string_view piece = reader.string();
      ids_.emplace(piece, id);
      longest_ = std::max(longest_, piece.size());
    }
  }

  /// The longest piece at the start of `text`, in whole characters: its size and id, or size 0 if there is none.
  std::pair<std::size_t, std::int32_t> longest_start(std::string_view text) const {
    for (std::size_t size = std::min(text.size(), longest_); size > 0; --size) {
      if (size < text.size() && (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80) continue;
      const auto found = ids_.find(text.substr(0, size));
      if (found != ids_.end()) return {size, found->second};
    }
    return {0, 0};
  }

 private:
  std::unordered_map<std::string_view, std::int32_t> ids_;
  std::size_t longest_ = 0;
};

}  // namespace detail

/// Turns texts into the same token ids as the `tokenizers` library does with the tokenizer.json of the checkpoint.
///
/// Several threads may use one const Tokenizer at the same time.
class Tokenizer {
 public:
  /// Read vocabulary.bin; throws Error if it is missing or was changed.
  explicit Tokenizer(const std::filesystem::path& file) : content_(read(file)) {
    const std::string_view content(content_.data(), content_.size());
    detail::Reader reader(content, file.string());
    reader.bytes(sizeof magic - 1);
    dim_ = reader.number();
    unit_length_ = reader.number() != 0;
    max_tokens_ = reader.number();
    pad_ = static_cast<std::int32_t>(reader.number());
    unknown_ = static_cast<std::int32_t>(reader.number());
    longest_word_ = reader.number();
    before_ = reader.numbers<std::int32_t>();
    after_ = reader.numbers<std::int32_t>();
    prompt_ = reader.string();
    unpooled_ = reader.number();
    initial_.read(reader);
    continuing_.read(reader);
    for (std::uint32_t left = reader.number(); left > 0; --left) {
      const auto id = static_cast<std::int32_t>(reader.number());
      const std::string_view added = reader.string();
      added_.emplace_back(added, id);
      starts_added_[static_cast<unsigned char>(added[0])] = true;
    }
    for (std::uint32_t left = reader.number(); left > 0; --left) {
      starts_.push_back(reader.number());
      traits_.push_back(reader.number());
    }
    decomposed_.read(reader);
    lowered_.read(reader);
    for (char32_t character = 0; character < ascii_.size(); ++character) ascii_[character] = looked_up(character);
  }

  Tokenizer(Tokenizer&&) = default;  // no copies: members are views into content_
  Tokenizer& operator=(Tokenizer&&) = default;

  std::size_t dim() const { return dim_; }                ///< Numbers in a vector.
  bool unit_length() const { return unit_length_; }       ///< Whether vectors have unit length.
  std::size_t max_tokens() const { return max_tokens_; }  ///< Longer texts are cut to this many tokens.
  std::int32_t pad() const { return pad_; }               ///< The token that fills up shorter texts.
  std::string_view prompt() const { return prompt_; }     ///< The text that the checkpoint puts before every text.
  std::size_t unpooled() const { return unpooled_; }      ///< How many tokens of the prompt are not pooled.

  /// The ids of a text with its special tokens, 1 to max_tokens() ids. The text need not be valid UTF-8.
  std::vector<std::int32_t> ids(std::string_view text) const {
    std::vector<std::int32_t> ids(before_);
    Walk walk(*this, ids, max_tokens_ - after_.size());
    for (std::size_t place = 0; place < text.size() && !walk.full();) {
      if (const Added* added = added_at(text.substr(place))) {
        walk.add(added->second);
        place += added->first.size();
      } else {
        walk.take(detail::next_character(text, place));
      }
    }
    walk.finish();
    ids.insert(ids.end(), after_.begin(), after_.end());
    if (ids.empty()) ids.push_back(pad_);  // so that a text without tokens has a defined vector
    return ids;
  }

 private:
  using Added = std::pair<std::string_view, std::int32_t>;
  static constexpr char magic[] = "M2DVOC2\n";

  /// The state while one text is tokenized: characters in, ids out.
  class Walk {
   public:
    Walk(const Tokenizer& tokenizer, std::vector<std::int32_t>& ids, std::size_t limit)
        : tokenizer_(tokenizer), ids_(ids), limit_(limit) {}

    bool full() const { return ids_.size() >= limit_; }

    /// One character of the text.
    void take(char32_t character) {
      const std::uint32_t traits = tokenizer_.traits(character);
      if (traits & detail::Skipped) return;
      if (traits & detail::Padded) end();
      if (traits & detail::Hangul) {
        const char32_t number = character - 0xAC00;
        place(0x1100 + number / 588);
        place(0x1161 + number % 588 / 28);
        if (number % 28 != 0) place(0x11A7 + number % 28);
      } else if (traits & detail::Decomposed) {
        for (const char32_t part : tokenizer_.decomposed_.of(character)) place(part);
      } else {
        place(character, traits);
      }
      if (traits & detail::Padded) end();
    }

    /// An added token, found in the text.
    void add(std::int32_t id) {
      end();
      if (!full()) ids_.push_back(id);
    }

    void finish() {
      end();
      if (full()) ids_.resize(limit_);
    }

   private:
    void place(char32_t character) { place(character, tokenizer_.traits(character)); }

    /// Put combining characters into their canonical order; pass other characters on at once.
    void place(char32_t character, std::uint32_t traits) {
      if (const std::uint32_t order = traits >> detail::Order) {
        if (!(traits & detail::Mark)) combining_.emplace_back(order, character);
      } else {
        settle();
        if (!(traits & detail::Mark)) lower(character, traits);
      }
    }

    void settle() {
      if (combining_.empty()) return;
      std::stable_sort(combining_.begin(), combining_.end(),
                       [](const auto& left, const auto& right) { return left.first < right.first; });
      for (const auto& item : combining_) lower(item.second, tokenizer_.traits(item.second));
      combining_.clear();
    }

    void lower(char32_t character, std::uint32_t traits) {
      if (!(traits & detail::Lowered)) return split(character, traits);
      for (const char32_t part : tokenizer_.lowered_.of(character)) split(part, tokenizer_.traits(part));
    }

    void split(char32_t character, std::uint32_t traits) {
      if (traits & (detail::Space | detail::Punctuation)) end_word();
      if (traits & detail::Space) return;
      if (++characters_ <= tokenizer_.longest_word_) detail::append(word_, character);
      if (traits & detail::Punctuation) end_word();
    }

    void end() {
      settle();
      end_word();
    }

    /// Split the word into the longest pieces, from the left; if a piece is missing, the whole word is unknown.
    void end_word() {
      if (characters_ == 0) return;
      const std::size_t known = ids_.size();
      bool found = characters_ <= tokenizer_.longest_word_;
      for (std::string_view rest = word_; found && !rest.empty();) {
        const auto& pieces = rest.size() == word_.size() ? tokenizer_.initial_ : tokenizer_.continuing_;
        const auto [size, id] = pieces.longest_start(rest);
        found = size > 0;
        ids_.push_back(id);
        rest.remove_prefix(size);
      }
      if (!found) {
        ids_.resize(known);
        ids_.push_back(tokenizer_.unknown_);
      }
      word_.clear();
      characters_ = 0;
    }

    const Tokenizer& tokenizer_;
    std::vector<std::int32_t>& ids_;
    std::size_t limit_;
    std::vector<std::pair<std::uint32_t, char32_t>> combining_;
    std::string word_;
    std::size_t characters_ = 0;  // of the word, including those that word_ no longer takes
  };

  static std::vector<char> read(const std::filesystem::path& file) {
    std::ifstream stream(file, std::ios::binary);
    std::vector<char> content{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
    if (!stream.is_open() || stream.bad()) {
      throw Error(file.string() + " cannot be read: give the folder that holds it and the model");
    }
    const std::string_view all(content.data(), content.size());
    if (all.substr(0, sizeof magic - 1) != magic || all.size() < sizeof magic + 7) {
      throw Error(file.string() + " is not a vocabulary of this version: export the folder again");
    }
    const std::string_view body = all.substr(0, all.size() - 8);
    std::uint64_t checksum = 0xCBF29CE484222325;  // FNV-1a
    for (const char byte : body) checksum = (checksum ^ static_cast<unsigned char>(byte)) * 0x100000001B3;
    if (checksum != detail::Reader(all.substr(body.size()), file.string()).little_endian(8)) {
      throw Error(file.string() + " was changed, its checksum is wrong: copy it again, or export the folder again");
    }
    return content;
  }

  const Added* added_at(std::string_view text) const {
    if (!starts_added_[static_cast<unsigned char>(text[0])]) return nullptr;
    const auto found = std::find_if(added_.begin(), added_.end(), [text](const Added& added) {
      return text.substr(0, added.first.size()) == added.first;
    });
    return found == added_.end() ? nullptr : &*found;
  }

  std::uint32_t traits(char32_t character) const {
    return character < ascii_.size() ? ascii_[character] : looked_up(character);
  }

  std::uint32_t looked_up(char32_t character) const {
    const auto after = std::upper_bound(starts_.begin(), starts_.end(), character);
    return traits_[static_cast<std::size_t>(after - starts_.begin()) - 1];
  }

  std::vector<char> content_;
  std::size_t dim_ = 0, max_tokens_ = 0, longest_word_ = 0, unpooled_ = 0;
  bool unit_length_ = false;
  std::int32_t pad_ = 0, unknown_ = 0;
  std::vector<std::int32_t> before_, after_;  // special tokens of every text
  std::string_view prompt_;
  detail::Pieces initial_, continuing_;  // at the start of a word, and after it
  std::vector<Added> added_;             // the longest first
  std::array<bool, 256> starts_added_{};
  std::vector<char32_t> starts_;       // the first character of each run of equal traits
  std::vector<std::uint32_t> traits_;  // of each run
  std::array<std::uint32_t, 128> ascii_{};
  detail::Replacements decomposed_, lowered_;
};

}  // namespace m2d
