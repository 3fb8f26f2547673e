// A connected TCP socket, with TLS on top where asked for. Blocking until connected, then not.
#pragma once

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>

class Socket {
 public:
  // Raises std::runtime_error where nobody listens at `port` of 127.0.0.1. `tls` may be null.
  Socket(int port, SSL_CTX* tls) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
      throw std::runtime_error("cannot connect to port " + std::to_string(port));
    int on = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (tls) Handshake(tls);
    fcntl(fd_, F_SETFL, fcntl(fd_, F_GETFL) | O_NONBLOCK);
  }

  ~Socket() {
    if (ssl_) SSL_free(ssl_);
    close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  int fd() const { return fd_; }

  // Bytes read; 0: none now. Raises where the server has hung up.
  size_t Read(char* into, size_t room) {
    if (ssl_) return Settle(SSL_read(ssl_, into, static_cast<int>(room)));
    ssize_t got = recv(fd_, into, room, 0);
    if (got > 0) return static_cast<size_t>(got);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    throw std::runtime_error("the server hung up");
  }

  // Bytes written; 0: the socket is full.
  size_t Write(const char* from, size_t size) {
    if (ssl_) return Settle(SSL_write(ssl_, from, static_cast<int>(size)));
    ssize_t put = send(fd_, from, size, MSG_NOSIGNAL);
    if (put >= 0) return static_cast<size_t>(put);
    if (errno == EAGAIN || errno == EINTR) return 0;
    throw std::runtime_error("the server hung up");
  }

 private:
  void Handshake(SSL_CTX* tls) {
    ssl_ = SSL_new(tls);
    SSL_set_fd(ssl_, fd_);
    SSL_set_mode(ssl_, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    static const unsigned char kHttp2[] = {2, 'h', '2'};
    SSL_set_alpn_protos(ssl_, kHttp2, sizeof kHttp2);
    if (SSL_connect(ssl_) != 1) throw std::runtime_error("the TLS handshake failed");
    const unsigned char* chosen = nullptr;
    unsigned int size = 0;
    SSL_get0_alpn_selected(ssl_, &chosen, &size);
    if (size != 2 || std::memcmp(chosen, "h2", 2) != 0)
      throw std::runtime_error("the server did not choose h2 by ALPN");
  }

  size_t Settle(int result) {
    if (result > 0) return static_cast<size_t>(result);
    int why = SSL_get_error(ssl_, result);
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) return 0;
    throw std::runtime_error("the server hung up on TLS");
  }

  int fd_;
  SSL* ssl_ = nullptr;
};
