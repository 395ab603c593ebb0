import { rcFiles, type RcStartupOption, readRc, type UndecidedImport } from "./rc_options.ts";

/** Input of {@link findStartupOptions}. */
export interface StartupOptionsContext {
  workspace: string | undefined;
  home: string | undefined;
  /** @default this machine's */
  systemRcFiles?: string[];
  /** Bazel's label; called only if an rc line depends on it. Undefined if unknown. */
  bazelLabel(): Promise<string | undefined>;
  /** Called with a sentence about a relevant line that could not be followed. */
  warn(sentence: string): void;
}

/** The startup options that determine the stock client's server. */
const THAT_MATTER = ["output_base", "output_user_root", "server_javabase", "install_base"];

/** The startup options that the stock client finds in a workspace's rc files, in its order: the last wins. */
export async function findStartupOptions(context: StartupOptionsContext): Promise<RcStartupOption[]> {
  const { workspace, home, systemRcFiles, bazelLabel, warn } = context;
  const files = rcFiles(workspace, home, systemRcFiles);
  const { options, undecided } = readRc(files, workspace);
  if (undecided.length === 0) return options;
  const label = await bazelLabel();
  if (label !== undefined) return readRc(files, workspace, label).options;
  const that = undecided.map(unfollowed).find((text) => text !== undefined);
  if (that) warn(that);
  return options;
}

/** The sentence about a line that was not followed; undefined if it does not matter here. */
function unfollowed({ line, file, options }: UndecidedImport): string | undefined {
  const names = THAT_MATTER.filter((name) => options.some(({ option }) => option.startsWith(`--${name}=`)));
  if (names.length === 0) return undefined;
  return `"${line}" in ${file} was not followed, because no bazel on the PATH tells its version: ` +
    `${
      names.map((name) => `--${name}`).join(" and ")
    } of that file may be missing here; install Bazel on this machine.`;
}
