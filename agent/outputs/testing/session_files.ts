import { dirname, join } from "node:path";
import { Beneath } from "../../files/beneath.ts";
import { tempDir } from "../../../tests/support/temp_dir.ts";

/** What to put at a path: a file's text, a symlink, or a directory. */
type Content = string | { link: string } | "folder/";

/** A session's storage. The developer's paths do not exist on this machine. Removed with the scope. */
export interface SessionFiles extends AsyncDisposable {
  workspace: string;
  outputBase: string;
  /** The directory of a build's outputs. */
  bin: string;
  execRoot: string;
  /** The session's storage. */
  storage: Beneath;
  /** Where a developer's path is in the storage. */
  storagePath(path: string): string | undefined;
  /** The same as an absolute path. */
  hostPath(path: string): string;
  /** Creates files, by the developer's paths. */
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
