// A client generated from hlserve's .proto files: node client.js ADDRESS PROTO_DIR
//
// Asks a ModelInfer, a ModelStreamInfer, a Predict and a PredictStream, and prints the answers as JSON.
"use strict";

const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, protoDir] = process.argv.slice(2);
const files = ["inference.proto", "prediction.proto"].map((name) => path.join("hlserve", "pb", name));
const definition = loader.loadSync(files, { includeDirs: [protoDir], longs: Number, defaults: true });
const { inference, hlserve } = grpc.loadPackageDefinition(definition);
const plain = grpc.credentials.createInsecure();
const server = new inference.GRPCInferenceService(address, plain);
const predictor = new hlserve.v1.Prediction(address, plain);

// One call with one answer.
function ask(client, method, request) {
  return new Promise((resolve, reject) => {
    const deadline = new Date(Date.now() + 20000);
    client[method](request, { deadline }, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

// A stream of requests, and all of its answers.
function stream(client, method, requests) {
  return new Promise((resolve, reject) => {
    const answers = [];
    const call = client[method]({ deadline: new Date(Date.now() + 20000) });
    call.on("data", (answer) => answers.push(answer));
    call.on("error", reject);
    call.on("end", () => resolve(answers));
    for (const request of requests) call.write(request);
    call.end();
  });
}

function inferRequest(id, values) {
  return {
    modelName: "twice",
    id,
    inputs: [{ name: "input", datatype: "FP32", shape: [1, values.length], contents: { fp32Contents: values } }],
  };
}

// FP32, raw, as Triton's clients expect it.
function numbers(answer) {
  const bytes = Buffer.from(answer.rawOutputContents[0]);
  return Array.from({ length: bytes.length / 4 }, (_, place) => bytes.readFloatLE(4 * place));
}

async function main() {
  const inferred = await ask(server, "modelInfer", inferRequest("one", [1.5, -2]));
  const streamed = await stream(server, "modelStreamInfer", [
    inferRequest("a", [1, 2]),
    inferRequest("b", [1, 2, 3]),
    inferRequest("c", [3, 4]),
  ]);
  const words = await ask(predictor, "predict", { model: "words", instances: [{ text: "good food" }] });
  const table = await ask(predictor, "predict", {
    model: "table",
    instances: [
      { fields: { fields: { age: { numberValue: 4 }, pain: { stringValue: "yes" } } } },
      { fields: { fields: { age: { nullValue: 0 }, pain: { stringValue: "no" } } } },
    ],
  });
  const predicted = await stream(predictor, "predictStream", [
    { model: "twice", id: "a", instances: [{ numbers: { values: [1, 2] } }] },
    { model: "twice", id: "b", instances: [] },
    { model: "twice", id: "c", instances: [{ numbers: { values: [3, 4] } }] },
  ]);
  const refused = await ask(predictor, "predict", { model: "absent" }).catch((error) => error);
  return {
    inferred: [inferred.id, numbers(inferred)],
    streamed: streamed.map((each) => [
      each.inferResponse.id,
      each.errorMessage ? each.errorMessage : numbers(each.inferResponse),
    ]),
    words: words.predictions,
    table: table.predictions,
    predicted: predicted.map((each) => (each.response ? each.response.predictions[0].values : each.error)),
    refused: [refused.code, refused.details],
  };
}

main().then(
  (result) => {
    console.log(JSON.stringify(result));
    process.exit(0);
  },
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
