import { fromBinary } from "@bufbuild/protobuf";
import assert from "node:assert/strict";
import { join } from "node:path";
import { ServerInfoSchema } from "../../proto/contract/gen/bazel/v1/command_server_pb.ts";
import { Handshake } from "./handshake.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";

/** An output base whose client has written its pid file. */
function outputBase(pid = Deno.pid) {
  const temp = tempDirSync(), { path } = temp;
  Deno.mkdirSync(join(path, "server"));
  const file = (name: string) => join(path, "server", name);
  Deno.writeTextFileSync(file("server.pid.txt"), String(pid));
  return {
    path,
    file,
    read: (name: string) => Deno.readTextFileSync(file(name)),
    names: () => [...Deno.readDirSync(join(path, "server"))].map((e) => e.name).sort(),
    [Symbol.dispose]: temp[Symbol.dispose],
  };
}

const PUBLISHED = ["command_port", "request_cookie", "response_cookie", "server.pid.txt", "server_info.rawproto"];

Deno.test("a published server is found by old and new clients, and by this user only", () => {
  using ob = outputBase();
  const handshake = new Handshake(ob.path);
  handshake.publish(4711);
  assert.deepEqual(ob.names(), PUBLISHED);
  assert.equal(ob.read("command_port"), "127.0.0.1:4711");
  assert.equal(ob.read("request_cookie"), handshake.requestCookie);
  assert.equal(ob.read("response_cookie"), handshake.responseCookie);
  assert.notEqual(handshake.requestCookie, handshake.responseCookie);
  const { $typeName: _, ...info } = fromBinary(ServerInfoSchema, Deno.readFileSync(ob.file("server_info.rawproto")));
  assert.deepEqual(info, {
    pid: Deno.pid,
    address: "127.0.0.1:4711",
    requestCookie: handshake.requestCookie,
    responseCookie: handshake.responseCookie,
  });
  for (const name of PUBLISHED.filter((n) => n !== "server.pid.txt")) {
    assert.equal(Deno.statSync(ob.file(name)).mode! & 0o777, 0o600, name);
  }
});

Deno.test("an address is known only after the cookies", () => {
  using ob = outputBase();
  // What stands in the way of the address keeps it from being written, and nothing before it.
  Deno.mkdirSync(ob.file("server_info.rawproto"));
  assert.throws(() => new Handshake(ob.path).publish(1));
  assert.deepEqual(ob.names().filter((n) => n.endsWith("cookie")), ["request_cookie", "response_cookie"]);
  assert.equal(ob.names().includes("command_port"), false);
});

Deno.test("publishing replaces a former server's files", () => {
  using ob = outputBase();
  new Handshake(ob.path).publish(1);
  const handshake = new Handshake(ob.path);
  handshake.publish(2);
  assert.deepEqual([ob.read("command_port"), ob.read("request_cookie")], ["127.0.0.1:2", handshake.requestCookie]);
});

Deno.test("withdrawing takes our files away, and leaves a later server's alone", () => {
  using ob = outputBase();
  const first = new Handshake(ob.path);
  first.publish(1);
  Deno.writeTextFileSync(ob.file("jvm.out"), "");
  first.withdraw();
  first.withdraw();
  assert.deepEqual(ob.names(), ["jvm.out"]);
  Deno.writeTextFileSync(ob.file("server.pid.txt"), "1");
  new Handshake(ob.path).publish(2);
  first.withdraw();
  assert.deepEqual(ob.names(), [...PUBLISHED.slice(0, 1), "jvm.out", ...PUBLISHED.slice(1)]);
});

Deno.test("withdrawing leaves the pid file of another process", () => {
  using ob = outputBase();
  const handshake = new Handshake(ob.path);
  handshake.publish(1);
  Deno.writeTextFileSync(ob.file("server.pid.txt"), "1");
  assert.equal(handshake.isOurs(), false);
  handshake.withdraw();
  assert.deepEqual(ob.names(), ["server.pid.txt"]);
});

Deno.test("a server is ours while its pid file says so", () => {
  using ob = outputBase();
  const handshake = new Handshake(ob.path);
  assert.equal(handshake.isOurs(), true);
  Deno.writeTextFileSync(ob.file("server.pid.txt"), `${Deno.pid}1`);
  assert.equal(handshake.isOurs(), false);
  Deno.removeSync(ob.path, { recursive: true });
  assert.equal(handshake.isOurs(), false);
  handshake.withdraw();
});
