import { Connection } from "../../../proto/transport/grpc/channel.ts";
import { bytesValue, encodeFields, scanFields, textValue, varintValue } from "../../../proto/base/protobuf_fields.ts";
import type { TestWorkspace } from "../../../tests/support/workspace.ts";
import { Beneath } from "../../files/beneath.ts";
import { readHandshake } from "../../bazel/handshake_files.ts";

/** The result of a command. */
export interface RunResult {
  exitCode: number;
  stderr: string;
  execRequest?: Uint8Array;
}

/** A workspace's own Bazel server, called directly. Ends with the workspace. */
export interface RealServer extends Disposable {
  /** Absolute. */
  outputBase: string;
  /** The arguments of a request, as a client composes them. */
  args(...args: string[]): string[];
  run(args: readonly string[], filter?: (response: Uint8Array) => Uint8Array | undefined): Promise<RunResult>;
}

/** Makes the stock client start a server in the workspace. */
export async function realServer(workspace: TestWorkspace, bazelrc: readonly string[]): Promise<RealServer> {
  const { stdout } = await workspace.run(["info", "output_base"]);
  const outputBase = stdout.trim();
  using files = Beneath.open(outputBase);
  const { host, port, requestCookie } = readHandshake(files)!;
  const connection = new Connection(host, port);
  const options = bazelrc.map((line) => line.replace(/^(\w+) (.*)$/, "--default_override=1:$1=$2"));
  return {
    outputBase,
    args: (command, ...more) => [
      command,
      "--rc_source=client",
      "--default_override=0:common=--isatty=0",
      `--rc_source=${workspace.path}/.bazelrc`,
      ...options,
      "--client_env=PATH=/usr/bin:/bin",
      `--client_cwd=${workspace.path}`,
      ...more,
    ],
    async run(args, filter) {
      const result: RunResult = { exitCode: 0, stderr: "" };
      const call = await connection.call("/command_server.CommandServer/Run");
      const strings = args.map((arg) => [2, arg] as [number, string]);
      call.send(encodeFields([[1, requestCookie], ...strings, [3, true], [4, "pid=1"]]));
      call.end();
      for await (const sent of call.responses()) {
        const response = filter?.(sent) ?? sent;
        scanFields(response, (f) => {
          if (f.number === 3) result.stderr += textValue(response, f);
          else if (f.number === 5) result.exitCode = varintValue(response, f);
          else if (f.number === 8) result.execRequest = bytesValue(response, f).slice();
        });
      }
      return result;
    },
    [Symbol.dispose]: () => connection.close(),
  };
}
