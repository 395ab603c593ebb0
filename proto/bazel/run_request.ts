/** An encoded command_server.RunRequest: what it asks for, and its arguments changed while all other fields stay. */
import { Buffer } from "node:buffer";
import { bytesValue, lengthPrefix, scanFields, textValue, varintValue } from "../base/protobuf_fields.ts";

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

/** How the client describes itself when it ends a server in order to start another (4.2.3 `blaze.cc`, KillRunningServer). */
const FOR_SHUTDOWN = " (for shutdown)";

/** What a Run request asks for. */
export interface RunRequest {
  /** "build", "shutdown", …; empty if there is none. */
  command: string;
  args: Buffer[];
  startupOptions: { option: Uint8Array; source: string }[];
  blockForLock: boolean;
  /** How long it may wait for other commands, in milliseconds (`--block_for_lock=<duration>`). */
  lockTimeoutMs: number;
  /** `--quiet`: nothing but errors is shown. */
  quiet: boolean;
  /** "pid=N", or with " (for shutdown)". */
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
    switch (f.number) {
      case RequestField.arg:
        request.args.push(Buffer.from(bytesValue(message, f)));
        break;
      case RequestField.blockForLock:
        request.blockForLock = varintValue(message, f) !== 0;
        break;
      case RequestField.clientDescription:
        request.client = textValue(message, f);
        break;
      case RequestField.startupOptions:
        request.startupOptions.push(startupOption(bytesValue(message, f)));
        break;
      case RequestField.quiet:
        if (f.wireType === 0) request.quiet = varintValue(message, f) !== 0;
        break;
      case RequestField.lockTimeoutMs:
        if (f.wireType === 0) request.lockTimeoutMs = varintValue(message, f);
        break;
    }
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

/** Whether it is the shutdown that a client asks for by itself: other startup options, say, or RBS was switched off. */
export function isForShutdown({ client }: Pick<RunRequest, "client">): boolean {
  return client.endsWith(FOR_SHUTDOWN);
}

/** The command's name and its arguments; copies. Throws a WireError. */
export function runArguments(run: Uint8Array): Buffer[] {
  const args: Buffer[] = [];
  scanFields(run, (f) => {
    if (f.number === RequestField.arg) args.push(Buffer.from(bytesValue(run, f)));
  });
  return args;
}

/** The request with other arguments, as many as there may be. */
export function withRunArguments(run: Uint8Array, args: readonly Uint8Array[]): Buffer {
  const pieces: Uint8Array[] = [];
  scanFields(run, (f) => {
    if (f.number !== RequestField.arg) pieces.push(run.subarray(f.start, f.end));
  });
  for (const arg of args) pieces.push(lengthPrefix(RequestField.arg, arg.length), arg);
  return Buffer.concat(pieces);
}
