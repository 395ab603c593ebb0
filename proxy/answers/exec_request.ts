/**
 * Decodes ExecRequest, the message by which a server makes the client execute a program, exactly as stock clients do,
 * or not at all. Clients merge repeated fields and skip unknown ones; here both are errors.
 */
import { Buffer } from "node:buffer";
import { scanFields } from "../../proto/base/protobuf_fields.ts";

/** A decoded ExecRequest. All text is latin1, one character per byte. */
export interface ExecRequest {
  workingDirectory: string;
  argv: string[];
  environment: { name: string; value: string }[];
  /** Names of variables to remove from the program's environment. */
  cleared: string[];
  /** Bazel 8: a script that the client writes, and its content. */
  script?: { path: string; contents: string };
  /** Bazel 8: strings that a client on another machine may replace. */
  replaced: { type: number; value: string }[];
}

/** The message is not an ExecRequest of a known form. */
export class ExecRequestError extends Error {
  override readonly name = "ExecRequestError";
}

const VARINT = 0, BYTES = 2;

/** The encoding of each field, and whether it may be repeated. */
type Shape = Record<number, { wireType: number; repeated?: true }>;

/** command_server.proto: up to 3 in Bazel 2, 4 and 5 since 7, 6 and 7 since 8. */
const EXEC_REQUEST: Shape = {
  1: { wireType: BYTES },
  2: { wireType: BYTES, repeated: true },
  3: { wireType: BYTES, repeated: true },
  4: { wireType: BYTES, repeated: true },
  5: { wireType: VARINT },
  6: { wireType: BYTES },
  7: { wireType: BYTES, repeated: true },
};
const TWO_TEXTS: Shape = { 1: { wireType: BYTES }, 2: { wireType: BYTES } };
const PATH_TO_REPLACE: Shape = { 1: { wireType: VARINT }, 2: { wireType: BYTES } };

/** Decodes an ExecRequest. Throws an {@link ExecRequestError} or WireError. */
export function readExecRequest(bytes: Uint8Array): ExecRequest {
  const request: ExecRequest = { workingDirectory: "", argv: [], environment: [], cleared: [], replaced: [] };
  read(bytes, EXEC_REQUEST, {
    1: (value) => request.workingDirectory = latin1(value),
    2: (value) => request.argv.push(latin1(value)),
    3(value) {
      const variable = { name: "", value: "" };
      read(value, TWO_TEXTS, { 1: (v) => variable.name = latin1(v), 2: (v) => variable.value = latin1(v) });
      request.environment.push(variable);
    },
    4: (value) => request.cleared.push(latin1(value)),
    6(value) {
      const script = { path: "", contents: "" };
      read(value, TWO_TEXTS, { 1: (v) => script.path = latin1(v), 2: (v) => script.contents = latin1(v) });
      request.script = script;
    },
    7(value) {
      const replaced = { type: 0, value: "" };
      // A type is one byte while there are fewer than 128 types.
      read(value, PATH_TO_REPLACE, { 1: (v) => replaced.type = v[0], 2: (v) => replaced.value = latin1(v) });
      request.replaced.push(replaced);
    },
  });
  return request;
}

/** Visits the fields of a message. Throws for any field not in `shape`. */
function read(message: Uint8Array, shape: Shape, visit: Record<number, (value: Uint8Array) => void>): void {
  const seen = new Set<number>();
  scanFields(message, ({ number, wireType, valueStart, end }) => {
    const known = Object.hasOwn(shape, number) ? shape[number] : undefined;
    if (!known) throw new ExecRequestError(`it has a field ${number}, which this version of RBS does not know`);
    if (known.wireType !== wireType) throw new ExecRequestError(`its field ${number} has the wire type ${wireType}`);
    if (seen.has(number) && !known.repeated) throw new ExecRequestError(`its field ${number} is there twice`);
    seen.add(number);
    visit[number]?.(message.subarray(valueStart, end));
  });
}

/** Refuses a zero byte, at which a C string would end. */
function latin1(bytes: Uint8Array): string {
  if (bytes.includes(0)) throw new ExecRequestError("it has a zero byte in a text");
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1");
}
