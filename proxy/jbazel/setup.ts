import { join, resolve } from "node:path";
import { RbsError } from "../../proto/base/errors.ts";
import { findWorkspace } from "../../proto/bazel/workspace.ts";
import { followLinks, readText, removeFile, replaceText } from "./atomic_file.ts";
import { inspectJavabase } from "./javabase.ts";
import { addBlock, DamagedBlock, hasBlock, removeBlock, renderBlock } from "./rc_block.ts";
import { lastOption, readStartupOptions } from "./rc_options.ts";
import { usage } from "./settings.ts";

/** Options of `jbazel setup`. */
export interface SetupOptions {
  workspace?: boolean;
  home?: boolean;
  rc?: string;
  print?: boolean;
  remove?: boolean;
  /** Absolute, or relative to the working directory. */
  javabase: string;
}

/** The surroundings of {@link runSetup}. */
export interface SetupContext {
  /** Absolute path. */
  workingDirectory: string;
  home: string | undefined;
  say(line: string): void;
  /** Asks the user; undefined without a terminal. */
  ask?(question: string): string | null;
}

/**
 * Makes the stock `bazel` use RBS: writes the startup line into the rc file of the user's choice, or removes it.
 *
 * @returns the exit code
 */
export function runSetup(options: SetupOptions, context: SetupContext): number {
  const { say } = context;
  const javabase = resolve(context.workingDirectory, options.javabase);
  const block = renderBlock(javabase);
  const file = chooseFile(options, context);

  if (options.print) {
    say(file ? `# For ${file}:` : "# For a workspace's .bazelrc, or for ~/.bazelrc:");
    say(block.trimEnd());
    return 0;
  }
  if (!file) {
    explain(say, block, context);
    return 2;
  }
  if (options.remove) return remove(file, say);

  const state = inspectJavabase(javabase);
  if (state !== "ours") {
    throw new RbsError(
      state === "another program"
        ? `${javabase}/bin/java is not RBS's: name the javabase of RBS with --javabase=DIR.`
        : `There is no javabase of RBS at ${javabase} (bin/java is ${state}): make it with "deno task compile", or name one ` +
          `with --javabase=DIR.`,
      { culprit: "caller" },
    );
  }
  const old = readText(file);
  const text = withFile(file, () => addBlock(old, javabase));
  if (text === old) {
    say(`${file} is set up already; nothing was changed.`);
  } else {
    replaceText(file, text);
    say(`${old === undefined ? "Made" : "Changed"} ${file}. It now has the lines`);
    say("");
    for (const line of block.trimEnd().split("\n")) say(`    ${line}`);
    say("");
    say(
      "From now on the stock bazel takes RBS's proxy for its server: the same commands, but the work is done by the build server.",
    );
    say('To undo it: the same "jbazel setup" with --remove. To see whether all is well: "jbazel doctor".');
  }
  const effective = lastOption(readStartupOptions([file], findWorkspace(context.workingDirectory)), "server_javabase");
  if (effective && effective.value !== javabase) {
    say(
      `Note that ${effective.file} also says --server_javabase=${effective.value}, later on: that one counts until you remove it.`,
    );
  }
  return 0;
}

function remove(file: string, say: (line: string) => void): number {
  const old = readText(file);
  if (old === undefined || !withFile(file, () => hasBlock(old))) {
    say(`${file} has no rbs block; nothing was changed.`);
    return 0;
  }
  const text = withFile(file, () => removeBlock(old));
  if (text === undefined) removeFile(file);
  else replaceText(file, text);
  say(
    text === undefined
      ? `Removed ${file}, which held nothing but the rbs block.`
      : `Took the rbs block out of ${file}.`,
  );
  say("The next bazel command starts a local server.");
  return 0;
}

/** Adds the file's name to errors about its content. */
function withFile<T>(file: string, f: () => T): T {
  try {
    return f();
  } catch (e) {
    if (!(e instanceof DamagedBlock)) throw e;
    throw usage(`${file} was not changed. ${e.message}`);
  }
}

/** The chosen rc file, absolute; undefined if the user has not chosen. */
function chooseFile(options: SetupOptions, context: SetupContext): string | undefined {
  const chosen = [options.workspace && "--workspace", options.home && "--home", options.rc && "--rc"].filter(Boolean);
  if (chosen.length > 1) throw usage(`${chosen.join(" and ")} exclude each other: choose one rc file.`);
  if (options.workspace) return workspaceRc(context);
  if (options.home) return homeRc(context);
  if (options.rc) {
    const file = resolve(context.workingDirectory, options.rc);
    followLinks(file);
    return file;
  }
  if (options.print || !context.ask) return undefined;
  explain(context.say, undefined, context);
  switch (
    context.ask(options.remove ? "Take it out of which, [w]orkspace or [h]ome?" : "Which, [w]orkspace or [h]ome?")
      ?.trim().toLowerCase()
  ) {
    case "w":
    case "workspace":
      return workspaceRc(context);
    case "h":
    case "home":
      return homeRc(context);
    default:
      throw usage("Nothing was chosen, and nothing was changed.");
  }
}

function workspaceRc(context: SetupContext): string {
  const workspace = findWorkspace(context.workingDirectory);
  if (!workspace) {
    throw usage(`${context.workingDirectory} is not within a workspace: change to one, or use --home or --rc=FILE.`);
  }
  return join(workspace, ".bazelrc");
}

function homeRc(context: SetupContext): string {
  if (!context.home?.startsWith("/")) {
    throw usage("HOME is not set, so there is no home bazelrc: use --workspace or --rc=FILE.");
  }
  return join(context.home, ".bazelrc");
}

function explain(say: (line: string) => void, block: string | undefined, context: SetupContext): void {
  const workspace = findWorkspace(context.workingDirectory);
  say("jbazel setup adds one startup line to a bazelrc, by which the stock bazel takes RBS's proxy for its server.");
  say("");
  say(`  --workspace  ${workspace ? `${workspace}/.bazelrc` : "the .bazelrc of the workspace (you are not in one)"}`);
  say("               for everyone who uses this checkout; shows up in version control");
  say(`  --home       ${context.home ?? "~"}/.bazelrc`);
  say("               for all your workspaces, and only for you");
  say("  --rc=FILE    any other file that your bazelrc imports");
  say("");
  if (block !== undefined) {
    for (const line of block.trimEnd().split("\n")) say(`    ${line}`);
    say("");
    say("Nothing was written: choose one of them.");
  }
}
