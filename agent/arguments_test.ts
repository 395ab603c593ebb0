import assert from "node:assert/strict";
import { RbsError } from "../proto/base/errors.ts";
import { parseArguments, readSpec } from "./arguments.ts";
import { LineReader } from "../proto/base/line_reader.ts";

const fails = (exitCode: number, text: RegExp) => (e: unknown) =>
  e instanceof RbsError && e.exitCode === exitCode && text.test(e.message);

Deno.test("flags have defaults, and wrong ones are named in one line with exit code 2", () => {
  assert.deepEqual(parseArguments([]), {
    namespace: "auto",
    bazel: "bazel",
    graceSeconds: 1800,
    installBases: [],
    host: "127.0.0.1",
    selfTest: false,
  });
  assert.deepEqual(parseArguments(["--install-bases=/a:/b"]).installBases, ["/a", "/b"]);
  for (const args of [["--nonsense"], ["--namespace=docker"], ["surplus"], ["--bazel"]]) {
    assert.throws(() => parseArguments(args), fails(2, /^agent: [^\n]*see agent --help\.$/), args.join());
  }
  assert.throws(() => parseArguments(["--help"]), fails(0, /RBS_NAMESPACE[^]*RBS_INSTALL_BASES/));
});

Deno.test("a spec that is none is refused with one sentence that holds nothing of it", async () => {
  const lines = (text: string) => new LineReader(new Blob([text]).stream() as ReadableStream<Uint8Array>);
  const spec = (text: string) => readSpec(lines(text), false);
  const identity = {
    agentId: "a".repeat(32),
    orchestratorAddress: "127.0.0.1:1",
    bootstrapToken: "secret",
    authorities: "secret",
    trustDomain: "rbs.test",
  };
  const good = { sourcePath: "/w", storageDirectory: "/s", accessToken: "secret", ...identity };
  assert.equal((await spec(JSON.stringify(good))).sourcePath, "/w");
  assert.equal((await spec(JSON.stringify({ warm: true, storageDirectory: "/s", ...identity }))).warm, true);
  assert.equal((await spec(JSON.stringify({ ...good, later: 1 }) + "\nrest")).sourcePath, "/w");
  for (
    const text of [
      "",
      "\n",
      "secret",
      "[]",
      JSON.stringify({ ...good, sourcePath: "w" }),
      ...Object.keys(identity).map((field) => JSON.stringify({ ...good, [field]: "" })),
      JSON.stringify({ ...good, accessToken: "" }),
      JSON.stringify({ ...good, warm: true, agentId: "" }),
    ]
  ) {
    await assert.rejects(spec(text), (e) => fails(2, /^agent: [^\n]*$/)(e) && !String(e).includes("secret"), text);
  }
  await assert.rejects(readSpec(lines(""), true), fails(2, /by hand/));
});
