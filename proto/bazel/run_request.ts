/** Reads an encoded command_server.RunRequest, and changes its arguments while all other fields stay. */
import { Buffer } from "node:buffer";
import { bytesValue, encodeFields, lengthPrefix, scanFields, textValue, varintValue } from "../base/protobuf_fields.ts";

/** Field numbers of RunRequest, as in proto/contract/bazel/v1/command_server.proto. */
export const RequestField = {
  cookie: 1,
  arg: 2,
  blockForLock: 3,
  clientDescription: 4,
  startupOptions: 6,
  /** Since Bazel 8. */
  quiet: 9,
  lockTimeoutMs: 10,
} as const;
/** Field numbers of StartupOption. */
const StartupField = { option: 1, source: 2 };

/** Ends the client's description when it stops a server to start another (4.2.3 `blaze.cc`, KillRunningServer). */
const FOR_SHUTDOWN = " (for shutdown)";

/** The content of a Run request. */
export interface RunRequest {
  /** "build", "shutdown", …; empty if there is none. */
  command: string;
  args: Buffer[];
  startupOptions: { option: Uint8Array; source: string }[];
  blockForLock: boolean;
  /** How long the command may wait for others, in milliseconds (`--block_for_lock=<duration>`). */
  lockTimeoutMs: number;
  /** `--quiet`: only errors are shown. */
  quiet: boolean;
  /** "pid=N", possibly followed by " (for shutdown)". */
  client: string;
}

/** Reads a request. Throws a WireError. */
export function readRunRequest(message: Uint8Array): RunRequest {
  const request: RunRequest = {
    command: "",
    args: [],
    startupOptions: [],
    blockForLock: false,
    lockTimeoutMs: Infinity,
    quiet: false,
    client: "",
  };
  scanFields(message, (f) => {
    // With another wire type, Bazel treats the field as unknown, and so does RBS.
    const isBytes = f.wireType === 2, isNumber = f.wireType === 0;
    if (f.number === RequestField.arg && isBytes) request.args.push(Buffer.from(bytesValue(message, f)));
    else if (f.number === RequestField.blockForLock && isNumber) request.blockForLock = varintValue(message, f) !== 0;
    else if (f.number === RequestField.clientDescription && isBytes) request.client = textValue(message, f);
    else if (f.number === RequestField.startupOptions && isBytes) {
      request.startupOptions.push(startupOption(bytesValue(message, f)));
    } else if (f.number === RequestField.quiet && isNumber) request.quiet = varintValue(message, f) !== 0;
    else if (f.number === RequestField.lockTimeoutMs && isNumber) request.lockTimeoutMs = varintValue(message, f);
  });
  if (!request.blockForLock) request.lockTimeoutMs = 0;
  request.command = request.args[0]?.toString() ?? "";
  return request;
}

function startupOption(pair: Uint8Array): RunRequest["startupOptions"][number] {
  const startup = { option: new Uint8Array() as Uint8Array, source: "" };
  scanFields(pair, (o) => {
    if (o.number === StartupField.option) startup.option = bytesValue(pair, o);
    else if (o.number === StartupField.source) startup.source = textValue(pair, o);
  });
  return startup;
}

/** Whether the client itself asks for a shutdown: for other startup options, or because RBS was disabled. */
export function isForShutdown({ client }: Pick<RunRequest, "client">): boolean {
  return client.endsWith(FOR_SHUTDOWN);
}

/** The changes in a request that is passed on. */
export interface RunChanges {
  cookie: string;
  /** @default unchanged */
  args?: readonly Uint8Array[];
  /** The remaining time in which the command may wait for others, in milliseconds. @default unchanged */
  lockTimeoutMs?: number;
}

/** Applies changes; all other fields stay, including those of later Bazels. Throws a WireError. */
export function changeRun(run: Uint8Array, { cookie, args, lockTimeoutMs }: RunChanges): Buffer {
  const dropped = new Set<number>([RequestField.cookie]);
  // Written even if empty: agents of former versions replace it, but do not add it.
  const pieces: Uint8Array[] = [lengthPrefix(RequestField.cookie, Buffer.byteLength(cookie)), Buffer.from(cookie)];
  if (args) {
    dropped.add(RequestField.arg);
    for (const arg of args) pieces.push(lengthPrefix(RequestField.arg, arg.length), arg);
  }
  if (lockTimeoutMs !== undefined) {
    dropped.add(RequestField.lockTimeoutMs);
    pieces.push(encodeFields([[RequestField.lockTimeoutMs, lockTimeoutMs]]));
  }
  scanFields(run, (f) => {
    if (!dropped.has(f.number)) pieces.push(run.subarray(f.start, f.end));
  });
  return Buffer.concat(pieces);
}
