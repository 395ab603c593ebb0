import { dirname, join } from "node:path";
import { Beneath } from "../../files/beneath.ts";
import { tempDir } from "../../../tests/support/temp_dir.ts";

/** What stands at a path: a file's text, a symlink, or a folder. */
type Content = string | { link: string } | "folder/";

/** A session's storage, in which the developer's paths are others than on this machine. Goes with the scope. */
export interface SessionFiles extends AsyncDisposable {
  workspace: string;
  outputBase: string;
  /** Where the outputs of a build are. */
  bin: string;
  execRoot: string;
  /** The session's storage, */
  storage: Beneath;
  /** and where in it something of the developer's is. */
  storagePath(path: string): string | undefined;
  /** The same, absolute. */
  hostPath(path: string): string;
  /** Puts things in place, by the developer's paths. */
  write(files: Record<string, Content>): void;
}

/** Makes an empty session of a developer whose paths do not exist on this machine. */
export async function sessionFiles(): Promise<SessionFiles> {
  const directory = await tempDir();
  const home = "/nowhere/home/ann", workspace = `${home}/ws`, outputBase = `${home}/.cache/bazel/_bazel_ann/0123`;
  const storagePath = (path: string) => {
    if (path === outputBase || path.startsWith(`${outputBase}/`)) return `out${path.slice(outputBase.length)}`;
    return path.startsWith("/nowhere") ? `root${path}` : undefined;
  };
  const hostPath = (path: string) => directory.join(storagePath(path)!);
  const storage = Beneath.open(directory.path);
  const files: SessionFiles = {
    workspace,
    outputBase,
    execRoot: `${outputBase}/execroot/ws`,
    bin: `${outputBase}/execroot/ws/bazel-out/k8-fastbuild/bin`,
    storage,
    storagePath,
    hostPath,
    write(contents) {
      for (const [path, content] of Object.entries(contents)) {
        const here = hostPath(path);
        Deno.mkdirSync(dirname(here), { recursive: true });
        if (content === "folder/") Deno.mkdirSync(here, { recursive: true });
        else if (typeof content === "string") Deno.writeTextFileSync(here, content);
        else Deno.symlinkSync(content.link, here);
      }
    },
    async [Symbol.asyncDispose]() {
      storage[Symbol.dispose]();
      await directory[Symbol.asyncDispose]();
    },
  };
  files.write({ [join(workspace, "WORKSPACE")]: "", [outputBase]: "folder/" });
  return files;
}
