// The requests that the load client sends and what it reads of the answers: Open Inference Protocol
// v2, as little of protobuf as these two need.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace oip {

// One request, in two parts because its id goes between them, and the values it must get.
struct Request {
  std::string head;  // model_name
  std::string tail;  // inputs and raw_input_contents
  std::vector<float> expected;
};

// What an answer says.
struct Answer {
  std::string_view error;
  std::string_view id;
  std::string_view values;  // float32, little-endian
};

// Absolute, and relative to what is expected: a batched run adds in another order.
constexpr float kTolerance = 1e-4f;

// Reads what benchmarks/serving_model.py wrote: a count, then three blobs a request.
inline std::vector<Request> ReadRequests(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("no file of requests at " + path);
  auto number = [&] {
    uint32_t value = 0;
    file.read(reinterpret_cast<char*>(&value), sizeof value);
    return value;
  };
  auto blob = [&] {
    std::string content(number(), '\0');
    file.read(content.data(), static_cast<std::streamsize>(content.size()));
    return content;
  };
  std::vector<Request> requests(number());
  for (Request& request : requests) {
    request.head = blob();
    request.tail = blob();
    std::string values = blob();
    request.expected.resize(values.size() / sizeof(float));
    std::memcpy(request.expected.data(), values.data(), values.size());
  }
  if (!file || requests.empty()) throw std::runtime_error(path + " is cut short or empty");
  return requests;
}

// The gRPC frame of a request: flag, length, message. An empty id leaves the field out.
inline void AppendFrame(const Request& request, std::string_view id, std::string& out) {
  size_t id_size = id.empty() ? 0 : 2 + id.size();  // ids here are shorter than 128 bytes
  size_t size = request.head.size() + id_size + request.tail.size();
  const char prefix[5] = {0, char(size >> 24), char(size >> 16), char(size >> 8), char(size)};
  out.append(prefix, sizeof prefix);
  out += request.head;
  if (!id.empty()) {
    out += '\x1a';  // field 3, length-delimited
    out += char(id.size());
    out += id;
  }
  out += request.tail;
}

// Calls `found(number, content)` for every length-delimited field; false where it is no protobuf.
template <typename Found>
bool Walk(std::string_view message, Found found) {
  size_t at = 0;
  auto varint = [&](uint64_t& value) {
    value = 0;
    for (int shift = 0; at < message.size() && shift < 64; shift += 7) {
      uint8_t byte = static_cast<uint8_t>(message[at++]);
      value |= uint64_t(byte & 0x7f) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  };
  while (at < message.size()) {
    uint64_t tag, value;
    if (!varint(tag)) return false;
    switch (tag & 7) {
      case 0:
        if (!varint(value)) return false;
        break;
      case 1: at += 8; break;
      case 2:
        if (!varint(value) || value > message.size() - at) return false;
        found(static_cast<int>(tag >> 3), message.substr(at, value));
        at += value;
        break;
      case 5: at += 4; break;
      default: return false;
    }
  }
  return at == message.size();
}

// The message of a ModelInferResponse, or of a ModelStreamInferResponse where `is_streamed`.
inline bool ReadAnswer(std::string_view message, bool is_streamed, Answer& answer) {
  if (is_streamed) {
    std::string_view inner;
    bool good = Walk(message, [&](int field, std::string_view content) {
      if (field == 1) answer.error = content;
      if (field == 2) inner = content;
    });
    return good && ReadAnswer(inner, false, answer);
  }
  bool good = true;
  auto contents = [&](int field, std::string_view content) {
    if (field == 6) answer.values = content;  // InferTensorContents.fp32_contents, packed
  };
  auto output = [&](int field, std::string_view content) {
    if (field == 5) good = good && Walk(content, contents);
  };
  return Walk(message, [&](int field, std::string_view content) {
    if (field == 3) answer.id = content;
    if (field == 5) good = good && Walk(content, output);
    if (field == 6) answer.values = content;  // raw_output_contents
  }) && good;
}

inline bool AreClose(std::string_view values, const std::vector<float>& expected) {
  if (values.size() != expected.size() * sizeof(float)) return false;
  for (size_t i = 0; i < expected.size(); ++i) {
    float value;
    std::memcpy(&value, values.data() + i * sizeof value, sizeof value);
    float room = kTolerance * std::max(1.0f, std::fabs(expected[i]));
    if (!(std::fabs(value - expected[i]) <= room)) return false;
  }
  return true;
}

}  // namespace oip
