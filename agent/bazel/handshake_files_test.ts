import { create, toBinary } from "@bufbuild/protobuf";
import assert from "node:assert/strict";
import { join } from "node:path";
import { ServerInfoSchema } from "../../proto/contract/gen/bazel/v1/command_server_pb.ts";
import { Connection } from "../../proto/transport/grpc/channel.ts";
import { Beneath } from "../files/beneath.ts";
import { type Handshake, ping, readHandshake as read } from "./handshake_files.ts";
import { tempDir } from "../../tests/support/temp_dir.ts";

/** A folder `server` in an output base. */
async function withOutputBase(
  run: (server: string, readHandshake: () => Handshake | undefined) => Promise<void> | void,
) {
  await using outputBase = await tempDir();
  using files = Beneath.open(outputBase.path);

  Deno.mkdirSync(outputBase.join("server"));
  await run(outputBase.join("server"), () => read(files));
}

Deno.test("the handshake is read from either generation's files, and from neither half of one", () =>
  withOutputBase(async (directory, readHandshake) => {
    const write = (file: string, data: string) => Deno.writeTextFileSync(join(directory, file), data);
    assert.equal(readHandshake(), undefined);
    write("command_port", "[::1]:4711");
    write("request_cookie", "q");
    assert.equal(readHandshake(), undefined);
    write("response_cookie", "r");
    assert.deepEqual(readHandshake(), { host: "::1", port: 4711, requestCookie: "q", responseCookie: "r" });
    const info = { pid: 1, address: "127.0.0.1:1", requestCookie: "a", responseCookie: "b" };
    Deno.writeFileSync(
      join(directory, "server_info.rawproto"),
      toBinary(ServerInfoSchema, create(ServerInfoSchema, info)),
    );
    const handshake = readHandshake()!;
    assert.deepEqual(handshake, { host: "127.0.0.1", port: 1, requestCookie: "a", responseCookie: "b" });
    using connection = new Connection(handshake.host, handshake.port);
    assert.equal(await ping(connection, handshake, 1_000), false, "nobody is there");
    write("server_info.rawproto", "\xff");
    assert.equal(readHandshake()?.port, 4711);
    for (const elsewhere of ["10.0.0.1:80", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:80/x"]) {
      write("command_port", elsewhere);
      assert.equal(readHandshake(), undefined, "a Bazel server is on loopback");
    }
  }));

Deno.test("an endless file, a fifo, a device or a symlink in the place of a handshake is none, and holds nobody up", () =>
  withOutputBase(async (directory, readHandshake) => {
    const at = (file: string) => join(directory, file);
    Deno.writeTextFileSync(at("request_cookie"), "q");
    Deno.writeTextFileSync(at("response_cookie"), "r");
    Deno.writeTextFileSync(at("../port"), "127.0.0.1:4711");
    Deno.symlinkSync(at("../port"), at("command_port"));
    assert.equal(readHandshake(), undefined, "a symlink");
    Deno.removeSync(at("command_port"));
    await new Deno.Command("mkfifo", { args: [at("command_port")] }).output();
    assert.equal(readHandshake(), undefined, "a fifo");
    Deno.removeSync(at("command_port"));
    Deno.symlinkSync("/dev/zero", at("command_port"));
    assert.equal(readHandshake(), undefined, "a device");
    Deno.removeSync(at("command_port"));
    Deno.writeTextFileSync(at("command_port"), "127.0.0.1:4711");
    Deno.truncateSync(at("command_port"), 2e9);
    const before = Deno.memoryUsage().rss;
    assert.equal(readHandshake(), undefined, "a sparse file of 2 GB");
    assert(Deno.memoryUsage().rss - before < 100e6);
    Deno.removeSync(at("."), { recursive: true });
    Deno.mkdirSync(at("../elsewhere"));
    for (
      const [file, text] of [["command_port", "127.0.0.1:4711"], ["request_cookie", "q"], ["response_cookie", "r"]]
    ) {
      Deno.writeTextFileSync(at(`../elsewhere/${file}`), text);
    }
    Deno.symlinkSync("elsewhere", at("."));
    assert.equal(readHandshake(), undefined, "a symlink in the folder's place");
  }));
