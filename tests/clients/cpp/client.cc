// A plain C++ gRPC client: every value that comes back is checked. client ADDRESS WHAT
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "hlserve/pb/inference.grpc.pb.h"

using Stub = inference::GRPCInferenceService::Stub;
using inference::ModelInferRequest;
using inference::ModelInferResponse;

static const int kThreads = 8, kCalls = 50, kStreamed = 200;

static ModelInferRequest Request(int number, int columns) {
  ModelInferRequest request;
  request.set_model_name("identity_INT32");
  request.set_id(std::to_string(number));
  auto* input = request.add_inputs();
  input->set_name("x");
  input->set_datatype("INT32");
  input->add_shape(1);
  input->add_shape(columns);
  std::vector<int32_t> values(columns);
  for (int i = 0; i < columns; ++i) values[i] = number * 31 + i;
  request.add_raw_input_contents(values.data(), values.size() * sizeof(int32_t));
  return request;
}

static bool Same(const ModelInferRequest& request, const ModelInferResponse& response) {
  return response.id() == request.id() && response.outputs_size() == 1 &&
         response.outputs(0).name() == "y" && response.outputs(0).shape_size() == 2 &&
         response.outputs(0).shape(1) == request.inputs(0).shape(1) &&
         response.raw_output_contents_size() == 1 &&
         response.raw_output_contents(0) == request.raw_input_contents(0);
}

static void PatientUntil(grpc::ClientContext& context) {
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
}

static bool Unary(Stub& stub, int number, int columns, bool gzip) {
  grpc::ClientContext context;
  PatientUntil(context);
  if (gzip) context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  const ModelInferRequest request = Request(number, columns);
  ModelInferResponse response;
  const grpc::Status status = stub.ModelInfer(&context, request, &response);
  if (!status.ok()) std::cerr << status.error_code() << ": " << status.error_message() << "\n";
  return status.ok() && Same(request, response);
}

// All on one connection.
static bool Concurrent(Stub& stub) {
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread)
    threads.emplace_back([&stub, &good, thread] {
      for (int call = 0; call < kCalls; ++call)
        good += Unary(stub, thread * kCalls + call, 1 + call * call * 10, call % 3 == 0);
    });
  for (auto& thread : threads) thread.join();
  return good == kThreads * kCalls;
}

// Everything is written before anything is read.
static bool Streamed(Stub& stub) {
  grpc::ClientContext context;
  PatientUntil(context);
  auto stream = stub.ModelStreamInfer(&context);
  std::thread writer([&stream] {
    for (int number = 0; number < kStreamed; ++number) stream->Write(Request(number, 1 + number));
    stream->WritesDone();
  });
  int number = 0;
  bool good = true;
  inference::ModelStreamInferResponse answer;
  while (stream->Read(&answer)) {
    good = good && answer.error_message().empty() &&
           Same(Request(number, 1 + number), answer.infer_response());
    ++number;
  }
  writer.join();
  return stream->Finish().ok() && good && number == kStreamed;
}

// A loop that takes minutes; the client waits for a moment.
static bool Deadline(Stub& stub) {
  ModelInferRequest request;
  request.set_model_name("slow");
  auto* x = request.add_inputs();
  x->set_name("x");
  x->set_datatype("FP32");
  x->add_shape(8);
  x->add_shape(256);
  auto* steps = request.add_inputs();
  steps->set_name("steps");
  steps->set_datatype("INT64");
  const int64_t count = 20000;
  request.add_raw_input_contents(std::string(8 * 256 * 4, '\0'));
  request.add_raw_input_contents(&count, sizeof count);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(20));
  ModelInferResponse response;
  const grpc::Status status = stub.ModelInfer(&context, request, &response);
  return status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED && Unary(stub, 1, 1, false);
}

int main(int count, char** arguments) {
  if (count != 3) return 2;
  grpc::ChannelArguments options;
  options.SetMaxReceiveMessageSize(-1);
  auto channel = grpc::CreateCustomChannel(arguments[1], grpc::InsecureChannelCredentials(), options);
  auto stub = inference::GRPCInferenceService::NewStub(channel);
  const std::string what = arguments[2];
  if (what == "unary") return !Unary(*stub, 7, 3, false);
  if (what == "large") return !Unary(*stub, 7, 4'000'000, false);
  if (what == "gzip") return !Unary(*stub, 7, 1'000'000, true);
  if (what == "concurrent") return !Concurrent(*stub);
  if (what == "stream") return !Streamed(*stub);
  if (what == "deadline") return !Deadline(*stub);
  return 2;
}
