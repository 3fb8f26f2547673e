// One HTTP/2 connection of the load client: gRPC calls over libnghttp2, each answer checked.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "oip_message.h"
#include "socket.h"

// What all connections send.
struct Load {
  std::vector<oip::Request> requests;
  std::string path;
  bool is_streamed = false;
  bool differs = false;     // id, traceparent and grpc-timeout are another at every request
  bool indexes = false;     // differing headers go into HPACK's table (grpc-go), or not (gRPC C-core)
  bool checks = true;       // values and ids; off for a server that answers one thing
  bool is_tls = false;
};

// What came of one call, or of one message of a stream.
struct Outcome {
  double due;             // the time it was to be sent at
  std::string complaint;  // empty: right
};

class Connection {
 public:
  using OnDone = std::function<void(Connection&, const Outcome&)>;

  Connection(const Load& load, int port, SSL_CTX* tls, uint64_t seed, OnDone on_done)
      : load_(load), socket_(port, tls), authority_("127.0.0.1:" + std::to_string(port)),
        rng_(seed), on_done_(std::move(on_done)) {
    nghttp2_session_callbacks* callbacks;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, OnHeader);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, OnData);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, OnClose);
    nghttp2_session_client_new(&session_, callbacks, this);
    nghttp2_session_callbacks_del(callbacks);
    const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
                                               {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kWindow}};
    nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, 2);
    nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kWindow);
  }

  ~Connection() { nghttp2_session_del(session_); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  int fd() const { return socket_.fd(); }
  bool is_behind() const { return sent_ < out_.size(); }

  // Begins a call; a stream goes on with another message after every answer.
  void Begin(double due) {
    auto call = std::make_unique<Call>();
    NextMessage(*call, due);
    nghttp2_data_provider body;
    body.source.ptr = call.get();
    body.read_callback = ReadBody;
    char trace[64], timeout[16];
    nghttp2_nv headers[10];
    size_t count = Headers(headers, trace, timeout);
    if (nghttp2_submit_request(session_, nullptr, headers, count, &body, call.get()) < 0)
      throw std::runtime_error("no more streams on this connection");
    call.release();  // OnClose takes it
  }

  // Takes in what has come and calls `on_done` for each answer.
  void Receive() {
    static char buffer[256 * 1024];
    size_t got = socket_.Read(buffer, sizeof buffer);
    if (got == 0) return;
    auto taken = nghttp2_session_mem_recv(session_, reinterpret_cast<uint8_t*>(buffer), got);
    if (taken < 0) throw std::runtime_error(nghttp2_strerror(static_cast<int>(taken)));
    if (!nghttp2_session_want_read(session_)) throw std::runtime_error("the server said goodbye");
    if (got == sizeof buffer) Receive();  // TLS may hold more than epoll knows of
  }

  // Writes all that is to be said, in one send where the socket takes it.
  void Flush() {
    const uint8_t* data;
    ssize_t size;
    while ((size = nghttp2_session_mem_send(session_, &data)) > 0)
      out_.append(reinterpret_cast<const char*>(data), static_cast<size_t>(size));
    while (is_behind()) {
      size_t put = socket_.Write(out_.data() + sent_, out_.size() - sent_);
      if (put == 0) return;
      sent_ += put;
    }
    out_.clear();
    sent_ = 0;
  }

 private:
  static constexpr int kWindow = 16 << 20;
  static constexpr size_t kPrefix = 5;

  struct Call {
    const oip::Request* request = nullptr;
    std::string id, body, answer;
    size_t sent = 0;
    double due = 0;
    bool is_waiting = false, was_answered = false;
    std::string http_status, grpc_status, grpc_message;
  };

  void NextMessage(Call& call, double due) {
    call.request = &load_.requests[number_ % load_.requests.size()];
    call.due = due;
    call.body.clear();
    call.sent = 0;
    call.id = load_.differs ? "request-" + std::to_string(number_) : "";
    ++number_;
    oip::AppendFrame(*call.request, call.id, call.body);
  }

  static nghttp2_nv Header(std::string_view name, std::string_view value, bool indexes = true) {
    auto bytes = [](std::string_view text) {
      return const_cast<uint8_t*>(reinterpret_cast<const uint8_t*>(text.data()));
    };
    return {bytes(name), bytes(value), name.size(), value.size(),
            static_cast<uint8_t>(indexes ? NGHTTP2_NV_FLAG_NONE : NGHTTP2_NV_FLAG_NO_INDEX)};
  }

  // What grpcio sends; with a deadline and W3C's trace context where requests differ.
  size_t Headers(nghttp2_nv* headers, char (&trace)[64], char (&timeout)[16]) {
    size_t count = 0;
    headers[count++] = Header(":scheme", load_.is_tls ? "https" : "http");
    headers[count++] = Header(":method", "POST");
    headers[count++] = Header(":authority", authority_);
    headers[count++] = Header(":path", load_.path);
    headers[count++] = Header("te", "trailers");
    headers[count++] = Header("content-type", "application/grpc");
    headers[count++] = Header("user-agent", "grpc-python/1.85.1 grpc-c/54.0.0 (linux; chttp2)");
    headers[count++] = Header("grpc-accept-encoding", "identity, deflate, gzip");
    if (!load_.differs) return count;
    std::snprintf(trace, sizeof trace, "00-%016llx%016llx-%016llx-01", Random(), Random(),
                  Random());
    std::snprintf(timeout, sizeof timeout, "%llum", 5000 + Random() % 5000);
    headers[count++] = Header("traceparent", trace, load_.indexes);
    headers[count++] = Header("grpc-timeout", timeout, load_.indexes);
    return count;
  }

  unsigned long long Random() { return rng_(); }

  static ssize_t ReadBody(nghttp2_session*, int32_t, uint8_t* into, size_t room, uint32_t* flags,
                          nghttp2_data_source* source, void* self) {
    Call& call = *static_cast<Call*>(source->ptr);
    bool is_streamed = static_cast<Connection*>(self)->load_.is_streamed;
    size_t size = std::min(room, call.body.size() - call.sent);
    if (size == 0 && is_streamed) {
      call.is_waiting = true;
      return NGHTTP2_ERR_DEFERRED;
    }
    std::memcpy(into, call.body.data() + call.sent, size);
    call.sent += size;
    if (call.sent == call.body.size() && !is_streamed) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return static_cast<ssize_t>(size);
  }

  static int OnHeader(nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name,
                      size_t name_size, const uint8_t* value, size_t value_size, uint8_t, void*) {
    auto* call = static_cast<Call*>(
        nghttp2_session_get_stream_user_data(session, frame->hd.stream_id));
    std::string_view key(reinterpret_cast<const char*>(name), name_size);
    if (!call || key.size() < 7) return 0;
    std::string_view said(reinterpret_cast<const char*>(value), value_size);
    if (key == ":status") call->http_status = said;
    if (key == "grpc-status") call->grpc_status = said;
    if (key == "grpc-message") call->grpc_message = said;
    return 0;
  }

  static int OnData(nghttp2_session* session, uint8_t, int32_t stream_id, const uint8_t* data,
                    size_t size, void* self) {
    auto* call = static_cast<Call*>(nghttp2_session_get_stream_user_data(session, stream_id));
    if (!call) return 0;
    call->answer.append(reinterpret_cast<const char*>(data), size);
    auto& connection = *static_cast<Connection*>(self);
    if (connection.load_.is_streamed) connection.TakeStreamed(*call, stream_id);
    return 0;
  }

  void TakeStreamed(Call& call, int32_t stream_id) {
    size_t whole = WholeFrame(call.answer);
    if (whole == 0) return;
    Outcome outcome{call.due, Complaint(call, std::string_view(call.answer).substr(0, whole))};
    call.answer.erase(0, whole);
    on_done_(*this, outcome);
    NextMessage(call, Now());
    if (!call.is_waiting) return;
    call.is_waiting = false;
    nghttp2_session_resume_data(session_, stream_id);
  }

  static int OnClose(nghttp2_session* session, int32_t stream_id, uint32_t error, void* self) {
    std::unique_ptr<Call> call(
        static_cast<Call*>(nghttp2_session_get_stream_user_data(session, stream_id)));
    if (!call) return 0;
    auto& connection = *static_cast<Connection*>(self);
    Outcome outcome{call->due, ""};
    if (error != 0 || call->http_status != "200" || call->grpc_status != "0")
      outcome.complaint = "HTTP " + call->http_status + ", grpc-status " + call->grpc_status +
                          " " + call->grpc_message + ", reset " + std::to_string(error);
    else if (connection.load_.is_streamed)
      outcome.complaint = "the server ended a stream";
    else
      outcome.complaint = connection.Complaint(*call, call->answer);
    connection.on_done_(connection, outcome);
    return 0;
  }

  // The size of the first gRPC frame with its prefix, or 0 where it has not come whole.
  static size_t WholeFrame(std::string_view bytes) {
    if (bytes.size() < kPrefix) return 0;
    auto byte = [&](size_t at) { return static_cast<size_t>(static_cast<uint8_t>(bytes[at])); };
    size_t whole = kPrefix + (byte(1) << 24 | byte(2) << 16 | byte(3) << 8 | byte(4));
    return bytes.size() < whole ? 0 : whole;
  }

  // What is wrong with the one frame that `bytes` must be.
  std::string Complaint(const Call& call, std::string_view bytes) const {
    if (WholeFrame(bytes) != bytes.size()) return "the answer is not one gRPC message";
    if (!load_.checks) return "";
    oip::Answer answer;
    if (bytes[0] != 0 || !oip::ReadAnswer(bytes.substr(kPrefix), load_.is_streamed, answer))
      return "the answer is no ModelInferResponse";
    if (!answer.error.empty()) return std::string(answer.error);
    if (load_.differs && answer.id != call.id)
      return call.id + " was answered to " + std::string(answer.id);
    if (!oip::AreClose(answer.values, call.request->expected)) return "the values are wrong";
    return "";
  }

 public:
  static double Now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
  }

 private:
  const Load& load_;
  Socket socket_;
  std::string authority_;
  std::mt19937_64 rng_;
  OnDone on_done_;
  nghttp2_session* session_ = nullptr;
  uint64_t number_ = 0;
  std::string out_;
  size_t sent_ = 0;
};
