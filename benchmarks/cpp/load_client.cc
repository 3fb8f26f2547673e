// A load of gRPC inference requests on a server, much cheaper than the server: libnghttp2 over epoll
// on one thread. Every answer's grpc-status is read, and its id and values are checked.
//
//     load_client --port N --requests FILE [--connections N] [--in-flight N] [--seconds S]
//                 [--warm-up S] [--rate R] [--pids P,P,..] [--path PATH] [--seed N]
//                 [--streamed] [--differs] [--indexes] [--unchecked] [--tls]
//
// With --rate it is an open loop: R requests a second at exponentially distributed distances, each
// timed from the moment it was due. Otherwise each connection has so many in flight, always. Prints
// a line of JSON; CPU seconds are those of the processes of --pids (all threads, from their CPU
// clocks, read at the start and at the end of the window) and of this client.
#include <getopt.h>
#include <openssl/ssl.h>
#include <sys/epoll.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <sstream>

#include "connection.h"

namespace {

constexpr size_t kMostInFlight = 4096;  // of an open loop: beyond it the server is not keeping up

struct Options {
  Load load;
  int port = 0;
  size_t connections = 4, in_flight = 8;
  double seconds = 3, warm_up = 0.5, rate = 0;
  uint64_t seed = 0;
  std::vector<pid_t> pids;
};

struct Counts {
  uint64_t answered = 0, wrong = 0;
  std::string complaint;
  std::vector<double> latencies;  // seconds
};

Options ReadOptions(int argc, char** argv) {
  static const option kOptions[] = {
      {"port", 1, nullptr, 'p'},      {"requests", 1, nullptr, 'r'},
      {"connections", 1, nullptr, 'c'}, {"in-flight", 1, nullptr, 'f'},
      {"seconds", 1, nullptr, 's'},   {"warm-up", 1, nullptr, 'w'},
      {"rate", 1, nullptr, 'R'},      {"pids", 1, nullptr, 'P'},
      {"path", 1, nullptr, 'a'},      {"seed", 1, nullptr, 'S'},
      {"streamed", 0, nullptr, 'm'},  {"differs", 0, nullptr, 'd'},
      {"indexes", 0, nullptr, 'i'},   {"unchecked", 0, nullptr, 'u'},
      {"tls", 0, nullptr, 't'},       {nullptr, 0, nullptr, 0}};
  Options options;
  for (int which; (which = getopt_long(argc, argv, "", kOptions, nullptr)) != -1;) switch (which) {
      case 'p': options.port = std::atoi(optarg); break;
      case 'r': options.load.requests = oip::ReadRequests(optarg); break;
      case 'c': options.connections = std::strtoul(optarg, nullptr, 10); break;
      case 'f': options.in_flight = std::strtoul(optarg, nullptr, 10); break;
      case 's': options.seconds = std::atof(optarg); break;
      case 'w': options.warm_up = std::atof(optarg); break;
      case 'R': options.rate = std::atof(optarg); break;
      case 'S': options.seed = std::strtoull(optarg, nullptr, 10); break;
      case 'a': options.load.path = optarg; break;
      case 'm': options.load.is_streamed = true; break;
      case 'd': options.load.differs = true; break;
      case 'i': options.load.indexes = true; break;
      case 'u': options.load.checks = false; break;
      case 't': options.load.is_tls = true; break;
      case 'P': {
        std::stringstream list(optarg);
        for (std::string pid; std::getline(list, pid, ',');)
          options.pids.push_back(std::atoi(pid.c_str()));
        break;
      }
      default: throw std::runtime_error("unknown option");
    }
  if (options.load.path.empty())
    options.load.path = std::string("/inference.GRPCInferenceService/Model") +
                        (options.load.is_streamed ? "StreamInfer" : "Infer");
  if (options.port == 0 || options.load.requests.empty())
    throw std::runtime_error("--port and --requests are needed");
  return options;
}

double Seconds(clockid_t clock) {
  timespec time;
  if (clock_gettime(clock, &time) != 0) throw std::runtime_error("a process of --pids has ended");
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

double ServerSeconds(const std::vector<pid_t>& pids) {
  double sum = 0;
  for (pid_t pid : pids) {
    clockid_t clock;
    if (clock_getcpuclockid(pid, &clock) != 0)
      throw std::runtime_error("a process of --pids has ended");
    sum += Seconds(clock);
  }
  return sum;
}

class Client {
 public:
  explicit Client(const Options& options)
      : options_(options), rng_(options.seed), poll_(epoll_create1(0)) {
    if (options_.load.is_tls) {
      tls_ = SSL_CTX_new(TLS_client_method());
      SSL_CTX_set_verify(tls_, SSL_VERIFY_NONE, nullptr);
    }
    auto on_done = [this](Connection& connection, const Outcome& outcome) {
      Done(connection, outcome);
    };
    for (size_t i = 0; i < options_.connections; ++i) {
      auto seed = options_.seed * 1000 + i;
      connections_.push_back(std::make_unique<Connection>(options_.load, options_.port, tls_, seed,
                                                          on_done));
      epoll_event event{};
      event.events = EPOLLIN;
      event.data.ptr = connections_.back().get();
      epoll_ctl(poll_, EPOLL_CTL_ADD, connections_.back()->fd(), &event);
    }
  }

  void Run() {
    Begin();
    RunUntil(Connection::Now() + options_.warm_up);
    counts_ = {};
    double server = ServerSeconds(options_.pids), own = Seconds(CLOCK_PROCESS_CPUTIME_ID);
    double start = Connection::Now();
    RunUntil(start + options_.seconds);
    double seconds = Connection::Now() - start;
    server = ServerSeconds(options_.pids) - server;
    own = Seconds(CLOCK_PROCESS_CPUTIME_ID) - own;
    Print(seconds, server, own);
  }

 private:
  void Begin() {
    next_due_ = Connection::Now();
    if (options_.rate > 0) return;
    for (auto& connection : connections_) {
      for (size_t i = 0; i < options_.in_flight; ++i) connection->Begin(Connection::Now());
      connection->Flush();
    }
  }

  void RunUntil(double end) {
    epoll_event events[64];
    while (Connection::Now() < end) {
      if (options_.rate > 0) SendDue();
      // An open loop polls without sleeping: waking up late would be the client's latency.
      int count = epoll_wait(poll_, events, 64, options_.rate > 0 ? 0 : 50);
      for (int i = 0; i < count; ++i) {
        auto& connection = *static_cast<Connection*>(events[i].data.ptr);
        if (events[i].events & EPOLLIN) connection.Receive();
        Flush(connection);
      }
    }
  }

  void SendDue() {
    std::exponential_distribution<double> distance(options_.rate);
    double now = Connection::Now();
    for (; next_due_ <= now; next_due_ += distance(rng_)) {
      if (in_flight_ == kMostInFlight)
        throw std::runtime_error("the server does not keep up with the rate");
      Connection& connection = *connections_[turn_++ % connections_.size()];
      ++in_flight_;
      connection.Begin(next_due_);
      Flush(connection);
    }
  }

  void Flush(Connection& connection) {
    bool was_behind = connection.is_behind();
    connection.Flush();
    if (was_behind == connection.is_behind()) return;
    epoll_event event{};
    event.events = EPOLLIN | (connection.is_behind() ? EPOLLOUT : 0u);
    event.data.ptr = &connection;
    epoll_ctl(poll_, EPOLL_CTL_MOD, connection.fd(), &event);
  }

  void Done(Connection& connection, const Outcome& outcome) {
    double now = Connection::Now();
    ++counts_.answered;
    counts_.latencies.push_back(now - outcome.due);
    if (!outcome.complaint.empty()) {
      ++counts_.wrong;
      if (counts_.complaint.empty()) counts_.complaint = outcome.complaint;
      if (options_.load.is_streamed) throw std::runtime_error(outcome.complaint);
    }
    if (options_.rate > 0) --in_flight_;
    else if (!options_.load.is_streamed) connection.Begin(now);
  }

  void Print(double seconds, double server, double own) {
    auto& all = counts_.latencies;
    std::sort(all.begin(), all.end());
    auto at = [&](double share) {
      return all.empty() ? 0.0 : all[std::min(all.size() - 1, size_t(share * double(all.size())))];
    };
    for (char& c : counts_.complaint)
      if (c == '"' || c == '\\' || static_cast<unsigned char>(c) < ' ') c = '\'';
    std::printf(
        "{\"answered\": %llu, \"wrong\": %llu, \"complaint\": \"%s\", \"seconds\": %.6f, "
        "\"server_cpu_s\": %.6f, \"client_cpu_s\": %.6f, \"p50_s\": %.9f, \"p99_s\": %.9f}\n",
        static_cast<unsigned long long>(counts_.answered),
        static_cast<unsigned long long>(counts_.wrong), counts_.complaint.c_str(), seconds, server,
        own, at(0.50), at(0.99));
  }

  const Options& options_;
  std::mt19937_64 rng_;
  int poll_;
  SSL_CTX* tls_ = nullptr;
  std::vector<std::unique_ptr<Connection>> connections_;
  Counts counts_;
  double next_due_ = 0;
  size_t in_flight_ = 0, turn_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  try {
    Options options = ReadOptions(argc, argv);
    Client(options).Run();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "load_client: %s\n", error.what());
    return 1;
  }
}
