/** `echo_server.ts`: a bare grpc-js server whose one method sends back what it got, for the benchmark. Prints its port. */
import * as grpc from "@grpc/grpc-js";
import type { Buffer } from "node:buffer";

/** The method's path. */
export const ECHO = "/bench.Echo/Echo";

if (import.meta.main) {
  const asIs = (bytes: Buffer) => bytes;
  const server = new grpc.Server();
  const method = {
    path: ECHO,
    requestStream: false,
    responseStream: false,
    requestSerialize: asIs,
    requestDeserialize: asIs,
    responseSerialize: asIs,
    responseDeserialize: asIs,
  };
  server.addService({ echo: method }, {
    echo: (call: grpc.ServerUnaryCall<Buffer, Buffer>, done: grpc.sendUnaryData<Buffer>) => done(null, call.request),
  });
  server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
    if (error) throw error;
    console.log(port);
  });
}
