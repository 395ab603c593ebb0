import assert from "node:assert/strict";
import { RbsError } from "../proto/base/errors.ts";
import { create } from "@bufbuild/protobuf";
import { AgentSpecSchema } from "../proto/contract/gen/rbs/v1/agent_pb.ts";
import { parseArguments, readBlank, specFault } from "./arguments.ts";
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

Deno.test("what is no BlankAgent is refused with one sentence that holds nothing of it", async () => {
  const lines = (text: string) => new LineReader(new Blob([text]).stream() as ReadableStream<Uint8Array>);
  const blank = (text: string) => readBlank(lines(text), false);
  const identity = {
    agentId: "a".repeat(32),
    orchestratorAddress: "127.0.0.1:1",
    bootstrapToken: "secret",
    authorities: "secret",
    trustDomain: "rbs.test",
  };
  const good = { folder: "/f", ...identity };
  assert.equal((await blank(JSON.stringify(good))).folder, "/f");
  assert.equal((await blank(JSON.stringify({ ...good, later: 1 }) + "\nrest")).folder, "/f");
  for (
    const text of [
      "",
      "\n",
      "secret",
      "[]",
      JSON.stringify({ ...good, folder: "f" }),
      ...Object.keys(identity).map((field) => JSON.stringify({ ...good, [field]: "" })),
    ]
  ) {
    await assert.rejects(blank(text), (e) => fails(2, /^agent: [^\n]*$/)(e) && !String(e).includes("secret"), text);
  }
  await assert.rejects(readBlank(lines(""), true), fails(2, /by hand/));
});

Deno.test("a spec that is no session's says what is wrong with it", () => {
  const good = create(AgentSpecSchema, {
    agentId: "a",
    accessToken: "secret",
    sourcePath: "/w",
    storageDirectory: "/s",
  });
  assert.equal(specFault(good), undefined);
  for (
    const change of [
      { sourcePath: "w" },
      { storageDirectory: "" },
      { accessToken: "" },
      { agentId: "" },
      { hiddenPaths: ["h"] },
      { defaultOutputBase: "o" },
    ]
  ) {
    const [field] = Object.keys(change);
    assert.match(specFault({ ...good, ...change })!, new RegExp(`^the AgentSpec.* ${field}`));
  }
});
