/** The proxy's side of the sync up, and the agent's, with nothing but a connection between them. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { listenForProxy } from "../../agent/commands/command_port.ts";
import { openStorage } from "../../agent/namespace/storage_folder.ts";
import { DeveloperPaths } from "../../agent/workspace/developer_paths.ts";
import { SyncedWorkspace } from "../../agent/workspace/synced_workspace.ts";
import { WorkspaceService } from "../../agent/workspace/workspace_service.ts";
import { Connection } from "../../proto/transport/grpc/channel.ts";
import { WorkspaceSync } from "../../proxy/workspace/workspace_sync.ts";
import { run } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";

/** A session's Workspace service on a port of its own. */
function startAgent(storageDirectory: string, outputBase: string) {
  const storage = openStorage(storageDirectory);
  const paths = new DeveloperPaths({ outputBase, storageOutputBase: () => "out" });
  const workspace = new SyncedWorkspace({ storage, paths, outputBase, log: () => {}, watch: () => storage.watch() });
  const service = new WorkspaceService(storage, workspace, paths);
  const calls: string[] = [];
  const server = listenForProxy({
    at: "127.0.0.1",
    gate: { admit() {} },
    handlers: {
      "/rbs.v1.Workspace/Open": (...call) => (calls.push("Open"), service.open(...call)),
      "/rbs.v1.Workspace/Apply": (...call) => (calls.push("Apply"), service.apply(...call)),
    },
    relay: () => Promise.reject(new Error("there is no Bazel here")),
    onError: (what, error) => console.error(what, error),
  });
  const connection = new Connection("127.0.0.1", server.port);
  return {
    calls,
    link: { connection, headers: () => ({ "rbs-epoch": "1" }) },
    root: (path: string) => join(storageDirectory, paths.root + path),
    get generation() {
      return workspace.generation;
    },
    [Symbol.dispose]() {
      connection.close();
      workspace.save();
      server.close();
      storage[Symbol.dispose]();
    },
  };
}

/** All that can be seen of a tree, names as they are. */
async function listing(folder: string): Promise<string[]> {
  const script =
    `cd "$0" && find . -mindepth 1 ! -type d -printf '%P %y %m %s %l\\n' -o -mindepth 1 -printf '%P %y %m\\n' |
    LC_ALL=C sort | cat -v && find . -type f ! -perm -u=r -o -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum &&
    find . -type f -printf '%P %Ts.%.4TS\\n' | LC_ALL=C sort | cat -v`;
  return (await run(["bash", "-c", script, folder])).stdout.split("\n");
}

Deno.test("whatever happens to the files, the agent has them: names, kinds, modes, times, contents", async () => {
  await using directory = await tempDir();
  const workspace = directory.join("ws"), outputBase = directory.join("out");
  await Deno.mkdir(workspace);
  using agent = startAgent(directory.join("agent"), outputBase);
  using sync = new WorkspaceSync({ workspace, outputBase });
  const signal = new AbortController().signal;
  const steps = [
    `mkdir -p a/b "c d" empty && echo 1 > a/b/f && echo 2 > "c d/g" && : > nothing && ln -s nowhere dangling`,
    `echo x > $'raw\\xff' && mkdir $'raw\\xfe' && echo y > $'raw\\xfe/f' && ln -s $'to\\xff' $'link\\xff'`,
    `echo other > $'raw\\xff' && rm $'raw\\xfe/f'`,
    `rm -r $'raw\\xfe' && mv $'raw\\xff' plain`,
    `chmod 755 a/b/f && chmod 2750 a && chmod 500 "c d"`,
    `chmod 700 "c d" && echo 3 > "c d/g" && chmod 500 "c d"`,
    `mv a/b/f a/b/F && touch -d @12345.678 a/b/F`,
    `rm -r a && echo now a file > a`,
    `rm a && ln -s "c d" a`,
    `rm a && mkdir a && echo again > a/f`,
    `ln -sfn /usr/bin dangling && head -c 30000000 /dev/urandom > big`,
    `mv big a/big && cp --preserve=all a/big a/big2`,
    `for i in {1..300}; do mkdir -p m/d$((i % 7)); echo $i > m/d$((i % 7))/$i; done`,
    `mv m n && rm -r n/d3 && mkdir n/d3 && echo $RANDOM > n/d3/f`,
    `find . -type f -delete`,
  ];
  for (const step of steps) {
    await run(["bash", "-ec", step], { cwd: workspace });
    const { generation } = await sync.barrier({ link: agent.link, say() {}, signal });
    assert.equal(generation, agent.generation);
    assert.deepEqual(await listing(agent.root(workspace)), await listing(workspace), step);
  }
  assert.equal(agent.calls.filter((c) => c === "Open").length, 1);
});

Deno.test("an agent that begins anew has what the one before it had", async () => {
  await using directory = await tempDir();
  const workspace = directory.join("ws"), outputBase = directory.join("out");
  await Deno.mkdir(workspace);
  await Deno.writeTextFile(join(workspace, "f"), "f");
  const barrier = async (agent: ReturnType<typeof startAgent>, sync: WorkspaceSync) => {
    await sync.barrier({ link: agent.link, say() {}, signal: new AbortController().signal });
    return agent.calls.splice(0);
  };
  using sync = new WorkspaceSync({ workspace, outputBase });
  {
    using agent = startAgent(directory.join("agent"), outputBase);
    assert.deepEqual(await barrier(agent, sync), ["Open", "Apply"]);
    assert.deepEqual(await barrier(agent, sync), []);
  }
  using agent = startAgent(directory.join("agent"), outputBase);
  await Deno.writeTextFile(join(workspace, "g"), "g");
  sync.forget();
  assert.deepEqual(await barrier(agent, sync), ["Open", "Apply"]);
  assert.deepEqual(await listing(agent.root(workspace)), await listing(workspace));
});

Deno.test("single files and folders outside of the workspace arrive at their own paths", async () => {
  await using directory = await tempDir();
  const home = directory.join("home"), workspace = join(home, "ws"), outputBase = join(home, "out");
  await Deno.mkdir(workspace, { recursive: true });
  await Deno.mkdir(join(home, "repo"));
  await Deno.writeTextFile(join(workspace, "f"), "f");
  await Deno.writeTextFile(join(home, ".bazelrc"), "build --jobs=1\n");
  await Deno.writeTextFile(join(home, "secret"), "");
  await Deno.writeTextFile(join(home, "repo/x"), "x");
  using agent = startAgent(directory.join("agent"), outputBase);
  using sync = new WorkspaceSync({ workspace, outputBase });
  const barrier = (...names: string[]) =>
    sync.barrier({
      link: agent.link,
      say() {},
      signal: new AbortController().signal,
      outside: names.map((name) => ({ path: join(home, name), readOnly: true })),
    });
  await barrier(".bazelrc", "repo");
  const there = () => [...Deno.readDirSync(agent.root(home))].map((e) => e.name).sort();
  assert.deepEqual(there(), [".bazelrc", "repo", "ws"]);
  await Deno.writeTextFile(join(home, ".bazelrc"), "build --jobs=2\n");
  await barrier(".bazelrc", "repo");
  assert.equal(await Deno.readTextFile(agent.root(join(home, ".bazelrc"))), "build --jobs=2\n");
  await Deno.remove(join(home, ".bazelrc"));
  await barrier(".bazelrc");
  assert.deepEqual(there(), ["repo", "ws"]);
});

Deno.test("a root that holds the workspace and the output base leaves both alone", async () => {
  await using directory = await tempDir();
  const home = directory.join("home"), workspace = join(home, "ws"), outputBase = join(home, "out");
  await Deno.mkdir(workspace, { recursive: true });
  await Deno.mkdir(outputBase);
  await Deno.writeTextFile(join(workspace, "f"), "f");
  await Deno.writeTextFile(join(home, "g"), "g");
  using agent = startAgent(directory.join("agent"), outputBase);
  using sync = new WorkspaceSync({ workspace, outputBase });
  const outside = [{ path: home, readOnly: true }];
  for (let i = 0; i < 2; i++) {
    await sync.barrier({ link: agent.link, say() {}, signal: new AbortController().signal, outside });
    assert.deepEqual([...Deno.readDirSync(agent.root(home))].map((e) => e.name).sort(), ["g", "ws"]);
    assert.deepEqual([...Deno.readDirSync(agent.root(workspace))].map((e) => e.name), ["f"]);
    sync.forget();
  }
});
