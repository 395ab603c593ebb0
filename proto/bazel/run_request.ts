/** The arguments in an encoded command_server.RunRequest, whose other fields stay as they are. */
import { Buffer } from "node:buffer";
import { bytesValue, lengthPrefix, scanFields } from "../base/protobuf_fields.ts";

/** RunRequest.arg. */
const ARG = 2;

/** The command's name and its arguments; copies. Throws a WireError. */
export function runArguments(run: Uint8Array): Buffer[] {
  const args: Buffer[] = [];
  scanFields(run, (f) => {
    if (f.number === ARG) args.push(Buffer.from(bytesValue(run, f)));
  });
  return args;
}

/** The request with other arguments, as many as there may be. */
export function withRunArguments(run: Uint8Array, args: readonly Uint8Array[]): Buffer {
  const pieces: Uint8Array[] = [];
  scanFields(run, (f) => {
    if (f.number !== ARG) pieces.push(run.subarray(f.start, f.end));
  });
  for (const arg of args) pieces.push(lengthPrefix(ARG, arg.length), arg);
  return Buffer.concat(pieces);
}
