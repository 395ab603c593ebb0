import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { encodeFields } from "../../proto/base/protobuf_fields.ts";
import { pause } from "../../proto/base/timers.ts";
import { output } from "../../tests/support/run.ts";
import { request } from "../arguments/testing.ts";
import type { AgentLink } from "../session/session.ts";
import { WorkspaceAgent } from "../testing/workspace_agent.ts";
import { TwoMachines } from "./synced_commands.ts";
import { tempDirSync } from "../../tests/support/temp_dir.ts";

Deno.test("what symlinks lead to is there for the first command, links behind links included", async () => {
  using directory = tempDirSync();
  const temp = directory.path;
  const workspace = `${temp}/ws`, outputBase = `${temp}/out`;
  const write = (path: string) => {
    Deno.mkdirSync(`${temp}/${path}`.replace(/\/[^/]*$/, ""), { recursive: true });
    Deno.writeTextFileSync(`${temp}/${path}`, path);
  };
  Deno.mkdirSync(outputBase);
  for (const path of ["ws/BUILD", "x/f", "one", "named/f", "far/f", "farther/f", "later/f"]) write(path);
  Deno.symlinkSync("../x", `${workspace}/lnk`);
  // A worktree of git, whose .git is asked for.
  Deno.writeTextFileSync(`${workspace}/.rbsignore`, "!.git\n");
  Deno.writeTextFileSync(`${workspace}/.git`, `gitdir: ${temp}/main/.git/worktrees/ws\n`);
  write("main/.git/HEAD");
  write("main/.git/worktrees/ws/HEAD");
  Deno.writeTextFileSync(`${temp}/main/.git/worktrees/ws/commondir`, "../..\n");
  Deno.symlinkSync(`${temp}/one`, `${workspace}/one.txt`);
  Deno.symlinkSync("../far", `${temp}/named/link`);
  Deno.symlinkSync(`${temp}/farther`, `${temp}/far/link`);
  using agent = new WorkspaceAgent(`${temp}/agent`);
  using both = new TwoMachines({ workspace, outputBase, argv: [] });
  const typed = [`--override_repository=named=${temp}/named`, "//..."];
  const sent = request({ cwd: workspace, typed });
  const prepare = () =>
    both.prepare(sent, {
      link: { ...agent.link, synced: true } as unknown as AgentLink,
      by: {},
      isCurrent: () => true,
      signal: new AbortController().signal,
      say: () => {},
    });
  const isThere = (path: string) => {
    try {
      return Deno.statSync(agent.root(`${temp}/${path}`)).isFile;
    } catch {
      return false;
    }
  };
  await prepare();
  // This agent has the entry of a root that is a single file below the root's path.
  for (const path of ["x/f", "one/one", "named/f", "far/f", "farther/f", "main/.git/HEAD"]) {
    assert(isThere(path), path);
  }
  assert(!isThere("later/f"));
  Deno.symlinkSync("../later", `${temp}/far/new`);
  await prepare();
  assert(isThere("later/f"));
});

Deno.test("what was saved after somebody else had connected is there for the command that was started then", async () => {
  using directory = tempDirSync();
  const temp = directory.path;
  const workspace = `${temp}/ws`, outputBase = `${temp}/out`;
  for (const folder of [workspace, outputBase]) Deno.mkdirSync(folder);
  using agent = new WorkspaceAgent(`${temp}/agent`);
  using both = new TwoMachines({ workspace, outputBase, argv: [] });
  const sent = ["build", "//..."].map((word) => Buffer.from(word));
  const prepare = (by: object) =>
    both.prepare(sent, {
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
  // What a client takes from its connection to its command.
  const aLittle = () => pause(15);
  // A look is begun once in that time at most (AHEAD_MS), and no event tells that it is over.
  const untilNextLook = () => pause(100);
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
    await untilNextLook();
  }
  await untilNextLook();
  both.expect({});
  await aLittle();
  Deno.writeTextFileSync(`${workspace}/f`, "saved");
  const mine = {};
  both.expect(mine);
  await prepare(mine);
  assert.equal(there("f"), "saved");
});

Deno.test("a command that broke ends its pipes, and the next one tells the agent what is here", async () => {
  using directory = tempDirSync();
  const temp = directory.path;
  const workspace = `${temp}/ws`, outputBase = `${temp}/out`, pipe = `${temp}/pipe`;
  for (const folder of [workspace, outputBase]) Deno.mkdirSync(folder);
  await output(["mkfifo", pipe]);
  using agent = new WorkspaceAgent(`${temp}/agent`);
  using both = new TwoMachines({ workspace, outputBase, argv: [] });
  const typed = [`--build_event_json_file=${pipe}`, "//..."];
  const sent = request({ cwd: workspace, typed });
  const link = { ...agent.link, synced: true } as unknown as AgentLink;
  const prepare = () =>
    both.prepare(sent, { link, by: {}, isCurrent: () => true, signal: new AbortController().signal, say: () => {} });
  const broken = await prepare();
  assert(broken.outputs.home, "the first one tells");
  void broken.onNamed(encodeFields([[1, pipe], [3, "half"]]));
  await using reader = new Deno.Command("cat", { args: [pipe], stdout: "piped" }).spawn();
  const came = reader.stdout.getReader();
  assert.equal(new TextDecoder().decode((await came.read()).value), "half");
  broken[Symbol.dispose]();
  assert.equal((await came.read()).done, true);
  using next = await prepare();
  assert(next.outputs.home);
});

Deno.test("shutdown waits for no files", async () => {
  using directory = tempDirSync();
  const temp = directory.path;
  const workspace = `${temp}/ws`, outputBase = `${temp}/out`;
  for (const folder of [workspace, outputBase]) Deno.mkdirSync(folder);
  Deno.writeTextFileSync(`${workspace}/f`, "unsent");
  using agent = new WorkspaceAgent(`${temp}/agent`);
  using both = new TwoMachines({ workspace, outputBase, argv: [] });
  const { generation } = await both.prepare([Buffer.from("shutdown")], {
    link: { ...agent.link, synced: true } as unknown as AgentLink,
    by: {},
    isCurrent: () => true,
    signal: new AbortController().signal,
    say: () => {},
  });
  assert.equal(generation, "");
  assert.throws(() => Deno.statSync(`${agent.root(workspace)}/f`), Deno.errors.NotFound);
});

Deno.test("another command's barrier leaves what mod tidy has written, until that has ended", async () => {
  using directory = tempDirSync();
  const temp = directory.path;
  const workspace = `${temp}/ws`, outputBase = `${temp}/out`;
  for (const folder of [workspace, outputBase]) Deno.mkdirSync(folder);
  Deno.writeTextFileSync(`${workspace}/MODULE.bazel`, "mine");
  Deno.writeTextFileSync(`${workspace}/BUILD`, "mine");
  using agent = new WorkspaceAgent(`${temp}/agent`);
  using both = new TwoMachines({ workspace, outputBase, argv: [] });
  const link = { ...agent.link, synced: true } as unknown as AgentLink;
  const prepare = (...words: string[]) => {
    const sent = words.map((word) => Buffer.from(word));
    const signal = new AbortController().signal;
    return both.prepare(sent, { link, by: {}, isCurrent: () => true, signal, say: () => {} });
  };
  const there = () =>
    ["MODULE.bazel", "BUILD"].map((name) => Deno.readTextFileSync(`${agent.root(workspace)}/${name}`));
  /** A program of the session has changed something: all is compared. */
  const compare = async (...words: string[]) => {
    Deno.writeTextFileSync(`${agent.root(workspace)}/MODULE.bazel`, "tidied");
    Deno.writeTextFileSync(`${agent.root(workspace)}/BUILD`, "foreign");
    agent.generation++;
    both.forget();
    return await prepare(...words);
  };
  using tidy = await prepare("mod", "tidy");
  using _other = await compare("build", "//...");
  assert.deepEqual(there(), ["tidied", "mine"]);
  // Without a word of how it ended, the developer's file is what counts.
  tidy[Symbol.dispose]();
  using _last = await compare("build", "//...");
  assert.deepEqual(there(), ["mine", "mine"]);
});
