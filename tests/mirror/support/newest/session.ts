/** A workspace whose every command goes from a double of a client to a double of a server, with RBS between them. */
import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { output } from "../../../support/run.ts";
import { type Rig, rig, type RigOptions } from "../rig.ts";
import type { NewestBazel } from "./bazel.ts";

/** With and without a disk that laptop and agent share. */
export type Mode = "shared" | "synced";

/** What a server has noted. */
export interface Note {
  method?: string;
  fields?: number[];
  id?: string;
  size?: [columns: number, rows: number];
  known?: boolean;
  command?: string;
  typed?: string[];
  args?: string[];
  quiet?: boolean;
  client?: string;
  started?: number;
  version?: string;
  locks?: boolean;
  installBase?: string;
  locale?: string;
  cwd?: string;
}

/** Such a workspace. */
export interface NewestRig extends Rig {
  /** What the session's servers were told, in order. */
  notes(): Promise<Note[]>;
  /** Writes a file of the workspace. */
  write(path: string, text: string): Promise<void>;
  /** Reads one, by whatever links. */
  read(path: string): Promise<string>;
  /** Runs a command that must go well. */
  good(args: readonly string[]): Promise<{ stdout: string; stderr: string }>;
}

const FILES = {
  "MODULE.bazel": 'bazel_dep(name = "far", version = "1.0")\nbazel_dep(name = "near", version = "1.0")\n',
  "registry/far/BUILD": 'genrule(name = "copy", srcs = ["data.txt"], outs = ["copy.txt"], cmd = "cat $< > $@")\n',
  "registry/far/data.txt": "from far\n",
  "registry/far/other.txt": "other\n",
  "registry/near/BUILD": "",
  "registry/near/LINKS": "data.txt far data.txt\n",
  "show/BUILD": `
sh_binary(name = "show", srcs = ["show.sh"], data = ["@far//:data.txt", "@far//:copy", "@near//:data.txt"])
genrule(name = "copy", srcs = ["text.txt"], outs = ["copy.txt"], cmd = "cat $< > $@")
genrule(name = "more", srcs = ["text.txt"], outs = ["more.txt", "most.txt"], cmd = "tee $(OUTS) < $<")
`,
  "show/show.sh": '#!/bin/sh\ncd "$0.runfiles"; cat far+/data.txt far+/copy.txt near+/data.txt; echo "with $*"\n',
  "show/text.txt": "text\n",
};

/** Makes one. @param options.installBases The Bazels that the agent's machine has. @default this one, for a synced session */
export async function newestRig(
  mode: Mode,
  bazel: NewestBazel,
  { installBases = mode === "synced" ? [bazel.installs] : [], args = [], ...options }: RigOptions & {
    installBases?: readonly string[];
  } = {},
): Promise<NewestRig> {
  const one = await rig({
    ...options,
    bazel,
    args: [`--workspace=${mode}`, ...args],
    agentEnv: { RBS_INSTALL_BASES: installBases.join(":"), ...options.agentEnv },
  });
  const at = (path: string) => join(one.workspace.path, path);
  const write = async (path: string, text: string) => {
    await Deno.mkdir(dirname(at(path)), { recursive: true });
    await Deno.writeTextFile(at(path), text, { mode: 0o755 });
  };
  for (const [path, text] of Object.entries(FILES)) await write(path, text);
  return {
    ...one,
    write,
    read: (path) => Deno.readTextFile(at(path)),
    async good(args) {
      const finished = await one.run(args);
      assert.equal(finished.code, 0, finished.stdout + finished.stderr);
      return finished;
    },
    async notes() {
      const storage = join(one.cluster!.state, "storage");
      const logs = (await output(["find", storage, "-name", "java.log", "-type", "f"])).trim().split("\n");
      const texts = await Promise.all(logs.filter((log) => log !== "").map((log) => Deno.readTextFile(log)));
      return texts.join("").trim().split("\n").filter((line) => line !== "").map((line) => JSON.parse(line));
    },
  };
}
