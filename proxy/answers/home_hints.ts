/** Finds reports of a command that may come from a missing home directory or a missing .git at the agent. */
import { Buffer } from "node:buffer";

/** The reports, the sentence for each, and its remedy. A user who was already told the remedy needs no hint. */
const HINTS: readonly { reports: readonly string[]; remedy: string; sentence: string }[] = [
  {
    remedy: "RBS_HOME_FILES",
    // Messages of Bazel's downloader, of registries, and of git, curl and ssh in repository rules.
    reports: [
      "401 Unauthorized",
      "returned 401",
      "error: 401",
      "could not read Username",
      "Permission denied (publickey",
      "Host key verification failed",
    ],
    sentence:
      "rbs: if that asks for a login of yours: .netrc, .gitconfig, .docker/config.json, .npmrc and your SSH agent are not " +
      "at the build server; RBS_HOME_FILES=.netrc:.gitconfig copies the files that it names there, where your builds and " +
      "whoever administers that machine can read them.\n",
  },
  {
    remedy: "`!.git`",
    reports: ["not a git repository"],
    sentence:
      "rbs: .git is not at the build server, unless the workspace's .rbsignore has a line `!.git`: write one to have it synced.\n",
  },
];

/** Bytes kept of each part, since a report may be split. */
const KEPT = Math.max(...HINTS.flatMap(({ reports }) => reports.map(({ length }) => length))) - 1;

/** Finds reports in the output of commands. Each sentence is shown once. */
export class HomeHints {
  #left = [...HINTS];
  readonly #tails = new Map<string, Buffer>();

  /**
   * Reads a part of a command's standard error.
   *
   * @param command Its id.
   * @returns the sentences to show after it
   */
  read(command: string, part: Uint8Array): string {
    if (this.#left.length === 0) return "";
    const text = Buffer.concat([this.#tails.get(command) ?? Buffer.alloc(0), part]);
    const found = this.#left.filter(({ reports }) => reports.some((report) => text.includes(report)));
    this.#left = this.#left.filter((hint) => !found.includes(hint));
    this.#tails.set(command, text.subarray(-KEPT));
    return found.map(({ sentence }) => sentence).join("");
  }

  /** Something was shown to the developer: hints with the same remedy are dropped. */
  said(text: string): void {
    this.#left = this.#left.filter(({ remedy }) => !text.includes(remedy));
  }

  /** The command has ended. */
  forget(command: string): void {
    this.#tails.delete(command);
  }
}
