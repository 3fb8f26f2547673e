// A C++ gRPC server that answers every request with the same bytes: what gRPC's own library costs,
// with no parsing and no model. Asynchronous API, one completion queue, one thread. ModelInfer is a
// raw method (byte buffers, no protobuf: the request's message comes with the call, the answer goes
// with its status); any other method, so ModelStreamInfer, gets an answer a message through the
// generic service.
//
//     canned_server ANSWER STREAM_ANSWER      prints "serving canned on 127.0.0.1:PORT"
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

#include "canned.grpc.pb.h"

namespace {

constexpr int kWaiting = 256;  // calls that wait for a request; as many as come at once, and more

grpc::ByteBuffer ReadBuffer(const char* path) {
  std::ifstream file(path, std::ios::binary);
  std::string content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  grpc::Slice slice(content);
  return grpc::ByteBuffer(&slice, 1);
}

class Call {
 public:
  virtual ~Call() = default;
  virtual void Proceed(bool ok) = 0;
};

using Service = inference::GRPCInferenceService::WithRawMethod_ModelInfer<
    inference::GRPCInferenceService::Service>;

class UnaryCall final : public Call {
 public:
  UnaryCall(Service* service, grpc::ServerCompletionQueue* queue, const grpc::ByteBuffer* answer)
      : service_(service), queue_(queue), answer_(answer), writer_(&context_) {
    service_->RequestModelInfer(&context_, &request_, &writer_, queue_, queue_, this);
  }

  void Proceed(bool ok) override {
    if (!ok || is_answered_) {
      delete this;
      return;
    }
    new UnaryCall(service_, queue_, answer_);
    is_answered_ = true;
    writer_.Finish(*answer_, grpc::Status::OK, this);
  }

 private:
  Service* service_;
  grpc::ServerCompletionQueue* queue_;
  const grpc::ByteBuffer* answer_;
  grpc::ServerContext context_;
  grpc::ByteBuffer request_;
  grpc::ServerAsyncResponseWriter<grpc::ByteBuffer> writer_;
  bool is_answered_ = false;
};

class StreamCall final : public Call {
 public:
  StreamCall(grpc::AsyncGenericService* service, grpc::ServerCompletionQueue* queue,
             const grpc::ByteBuffer* answer)
      : service_(service), queue_(queue), answer_(answer), stream_(&context_) {
    service_->RequestCall(&context_, &stream_, queue_, queue_, this);
  }

  void Proceed(bool ok) override {
    switch (next_) {
      case Next::kBegin:
        if (!ok) return delete this;
        new StreamCall(service_, queue_, answer_);
        return Read();
      case Next::kWrite:
        next_ = ok ? Next::kRead : Next::kEnd;
        if (ok) return stream_.Write(*answer_, this);
        return stream_.Finish(grpc::Status::OK, this);
      case Next::kRead:
        return Read();
      case Next::kEnd:
        return delete this;
    }
  }

 private:
  enum class Next { kBegin, kRead, kWrite, kEnd };

  void Read() {
    next_ = Next::kWrite;
    stream_.Read(&request_, this);
  }

  grpc::AsyncGenericService* service_;
  grpc::ServerCompletionQueue* queue_;
  const grpc::ByteBuffer* answer_;
  grpc::GenericServerContext context_;
  grpc::ByteBuffer request_;
  grpc::GenericServerAsyncReaderWriter stream_;
  Next next_ = Next::kBegin;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: canned_server ANSWER STREAM_ANSWER\n");
    return 2;
  }
  const grpc::ByteBuffer answer = ReadBuffer(argv[1]);
  const grpc::ByteBuffer stream_answer = ReadBuffer(argv[2]);
  Service unary;
  grpc::AsyncGenericService generic;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&unary);
  builder.RegisterAsyncGenericService(&generic);
  auto queue = builder.AddCompletionQueue();
  auto server = builder.BuildAndStart();
  if (!server || port == 0) return 1;
  for (int i = 0; i < kWaiting; ++i) {
    new UnaryCall(&unary, queue.get(), &answer);
    new StreamCall(&generic, queue.get(), &stream_answer);
  }
  std::printf("serving canned on 127.0.0.1:%d\n", port);
  std::fflush(stdout);
  void* tag;
  bool ok;
  while (queue->Next(&tag, &ok)) static_cast<Call*>(tag)->Proceed(ok);
  return 0;
}
