/** What a command reports that can come of a home folder, or a repository, that the agent's machine does not have. */
import { Buffer } from "node:buffer";

/** Which report gets which sentence, and what that sentence tells to use: who was told so already needs none. */
const HINTS: readonly { reports: readonly string[]; remedy: string; sentence: string }[] = [
  {
    remedy: "RBS_HOME_FILES",
    // Bazel's downloader, what it says of a registry, and git, curl and ssh that repository rules run.
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

/** Of a report that is cut in two, this much is kept for the next part. Bytes. */
const KEPT = Math.max(...HINTS.flatMap(({ reports }) => reports.map(({ length }) => length))) - 1;

/** Finds reports in what commands print, and knows which sentences were said. */
export class HomeHints {
  #left = [...HINTS];
  readonly #tails = new Map<string, Buffer>();

  /**
   * Looks at a part of a command's standard error.
   *
   * @param command Its id.
   * @returns the sentences that are to be said after it: each once
   */
  read(command: string, part: Uint8Array): string {
    if (this.#left.length === 0) return "";
    const text = Buffer.concat([this.#tails.get(command) ?? Buffer.alloc(0), part]);
    const found = this.#left.filter(({ reports }) => reports.some((report) => text.includes(report)));
    this.#left = this.#left.filter((hint) => !found.includes(hint));
    this.#tails.set(command, text.subarray(-KEPT));
    return found.map(({ sentence }) => sentence).join("");
  }

  /** Something else was said to the developer: what it tells to use needs no hint any more. */
  said(text: string): void {
    this.#left = this.#left.filter(({ remedy }) => !text.includes(remedy));
  }

  /** The command has ended. */
  forget(command: string): void {
    this.#tails.delete(command);
  }
}
