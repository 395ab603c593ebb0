import assert from "node:assert/strict";
import { encodeFields } from "../proto/relay/wire.ts";
import type { AgentLink } from "./session.ts";
import { WorkspaceAgent } from "./testing/workspace_agent.ts";
import { TwoMachines } from "./two_machines.ts";

Deno.test("what was saved after somebody else had connected is there for the command that was started then", async () => {
  const temp = Deno.realPathSync(Deno.makeTempDirSync({ prefix: "rbs-two-machines-" }));
  const workspace = `${temp}/ws`, outputBase = `${temp}/out`;
  for (const folder of [workspace, outputBase]) Deno.mkdirSync(folder);
  using agent = new WorkspaceAgent(`${temp}/agent`);
  const both = new TwoMachines({ workspace, outputBase, argv: [] });
  const request = encodeFields([[2, "build"], [2, "//..."]]);
  const prepare = (by: object) =>
    both.prepare(request, {
      link: { ...agent.link, synced: true } as unknown as AgentLink,
      by,
      isCurrent: () => true,
      signal: new AbortController().signal,
      say: () => {},
    });
  const there = (name: string) => {
    try {
      return Deno.readTextFileSync(`${agent.root(workspace)}/${name}`);
    } catch {
      return undefined;
    }
  };
  const aLittle = () => new Promise((resolve) => setTimeout(resolve, 15));
  try {
    await prepare({});
    // Until the look of a connection counts for its own command: then what is saved after it is the next one's.
    for (let i = 0;; i++) {
      const by = {};
      both.expect(by);
      await aLittle();
      Deno.writeTextFileSync(`${workspace}/f${i}`, "late");
      await prepare(by);
      const counts = there(`f${i}`) === undefined;
      await prepare({});
      assert.equal(there(`f${i}`), "late");
      if (counts) break;
      assert(i < 200, "a look never counts");
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
    both.expect({});
    await aLittle();
    Deno.writeTextFileSync(`${workspace}/f`, "saved");
    const mine = {};
    both.expect(mine);
    await prepare(mine);
    assert.equal(there("f"), "saved");
  } finally {
    both[Symbol.dispose]();
    new Deno.Command("rm", { args: ["-rf", temp] }).outputSync();
  }
});

Deno.test("shutdown waits for no files", async () => {
  const temp = Deno.realPathSync(Deno.makeTempDirSync({ prefix: "rbs-two-machines-" }));
  const workspace = `${temp}/ws`, outputBase = `${temp}/out`;
  for (const folder of [workspace, outputBase]) Deno.mkdirSync(folder);
  Deno.writeTextFileSync(`${workspace}/f`, "unsent");
  using agent = new WorkspaceAgent(`${temp}/agent`);
  const both = new TwoMachines({ workspace, outputBase, argv: [] });
  try {
    const { generation } = await both.prepare(encodeFields([[2, "shutdown"]]), {
      link: { ...agent.link, synced: true } as unknown as AgentLink,
      by: {},
      isCurrent: () => true,
      signal: new AbortController().signal,
      say: () => {},
    });
    assert.equal(generation, "");
    assert.throws(() => Deno.statSync(`${agent.root(workspace)}/f`), Deno.errors.NotFound);
  } finally {
    both[Symbol.dispose]();
    new Deno.Command("rm", { args: ["-rf", temp] }).outputSync();
  }
});
