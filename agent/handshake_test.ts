import { create, toBinary } from "@bufbuild/protobuf";
import assert from "node:assert/strict";
import { join } from "node:path";
import { ServerInfoSchema } from "../proto/gen/bazel/v1/command_server_pb.ts";
import { ping, readHandshake, readServerPid, removeHandshake } from "./handshake.ts";

Deno.test("the handshake is read from either generation's files, and from neither half of one", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const write = (file: string, data: string) => Deno.writeTextFileSync(join(directory, file), data);
    assert.equal(readHandshake(directory), undefined);
    write("command_port", "[::1]:4711");
    write("request_cookie", "q");
    assert.equal(readHandshake(directory), undefined);
    write("response_cookie", "r");
    assert.deepEqual(readHandshake(directory), { host: "::1", port: 4711, requestCookie: "q", responseCookie: "r" });
    const info = { pid: 1, address: "127.0.0.1:1", requestCookie: "a", responseCookie: "b" };
    Deno.writeFileSync(
      join(directory, "server_info.rawproto"),
      toBinary(ServerInfoSchema, create(ServerInfoSchema, info)),
    );
    assert.deepEqual(readHandshake(directory), { host: "127.0.0.1", port: 1, requestCookie: "a", responseCookie: "b" });
    assert.equal(await ping(readHandshake(directory)!, 1_000), false, "nobody is there");
    write("server_info.rawproto", "\xff");
    assert.equal(readHandshake(directory)?.port, 4711);
    write("command_port", "10.0.0.1:80");
    assert.equal(readHandshake(directory), undefined, "a Bazel server is on loopback");
    removeHandshake(directory);
    removeHandshake(directory);
    assert.deepEqual([...Deno.readDirSync(directory)], []);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

Deno.test("a server's process number is a number greater than 1", async () => {
  const directory = await Deno.makeTempDir();
  try {
    for (const [text, pid] of [["12", 12], ["1", undefined], ["x", undefined], ["-3", undefined]] as const) {
      Deno.writeTextFileSync(join(directory, "server.pid.txt"), text);
      assert.equal(readServerPid(directory), pid);
    }
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
