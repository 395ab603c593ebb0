/** The client's gRPC channel: Google's implementation, as in the stock client, and not RBS's own. */
import { Client, credentials, Metadata } from "@grpc/grpc-js";
import { Buffer } from "node:buffer";
import { encodeFields } from "../../../../../proto/base/protobuf_fields.ts";
import { SERVICE } from "../messages.ts";

/** Fields of a request behind its cookie. */
export type RequestFields = Parameters<typeof encodeFields>[0];

const asIs = (bytes: Buffer) => bytes;

export class Channel {
  readonly #client: Client;
  readonly #cookie: string;

  constructor(address: string, cookie: string) {
    // A proxy that the environment names is none between client and server.
    const options = { "grpc.enable_http_proxy": 0, "grpc.max_receive_message_length": -1 };
    this.#client = new Client(address, credentials.createInsecure(), options);
    this.#cookie = cookie;
  }

  #request(fields: RequestFields, more: Uint8Array = Buffer.alloc(0)): Buffer {
    return Buffer.concat([encodeFields([[1, this.#cookie], ...fields]), more]);
  }

  /** Rejects with a gRPC error, after the deadline as well. */
  unary(method: string, fields: RequestFields, deadlineMs: number): Promise<Buffer> {
    const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
    const options = { deadline: Date.now() + deadlineMs };
    const request = this.#request(fields);
    this.#client.makeUnaryRequest(SERVICE + method, asIs, asIs, request, new Metadata(), options, (error, answer) => {
      if (error) reject(error);
      else resolve(answer!);
    });
    return promise;
  }

  /** Rejects with a gRPC error when the stream ends with one. @param more Encoded fields. */
  stream(method: string, fields: RequestFields, more?: Uint8Array): AsyncIterable<Buffer> {
    return this.#client.makeServerStreamRequest(SERVICE + method, asIs, asIs, this.#request(fields, more));
  }

  close(): void {
    this.#client.close();
  }
}
