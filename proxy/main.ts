/**
 * The proxy: what a Bazel client starts as `<server_javabase>/bin/java`. It stands in for the Bazel server on this
 * machine and has the commands run by a real one elsewhere.
 *
 * Imports almost nothing: the client polls for the server each 100 ms, and what loads after the first Ping costs nobody
 * anything.
 */
import { startCommandServer } from "./client/command_server.ts";
import type { Commands } from "./commands/commands.ts";
import { Handshake } from "./client/handshake.ts";
import { parseServerArgs } from "../proto/bazel/server_args.ts";
import { trace } from "../proto/base/log.ts";
import { log } from "./log.ts";

const args = parseServerArgs(Deno.args);
if (!args.outputBase || !args.workspace) {
  console.error(
    "rbs: this program stands in for a Bazel server's JVM: run bazel with --server_javabase=<the folder two levels above it> (jbazel setup does it for you).",
  );
  Deno.exit(36);
}

// No single command's trouble may end the server of all others.
globalThis.addEventListener("unhandledrejection", (event) => {
  event.preventDefault();
  log(`unexpected: ${trace(event.reason)}`);
});

const handshake = new Handshake(args.outputBase);
const commands = Promise.withResolvers<Commands>();
const pinged = Promise.withResolvers<void>();
const server = startCommandServer(handshake, commands.promise, pinged.resolve);
handshake.publish(server.port);

// A client that never pings (it died) must not keep the session from being found.
const patience = setTimeout(pinged.resolve, 150);
await pinged.promise;
clearTimeout(patience);
const { serve } = await import("./lifetime.ts");
commands.resolve(serve(args, handshake, server.close).commands);
