import { Option } from "commander";
import type { FlagPart } from "./flag_part.ts";
import { wholeNumber } from "./option_values.ts";

/** Class-data archives of Bazel servers. */
export interface ClassArchiveFlags {
  /** How many are kept for each user. */
  readonly classArchives: number;
}

/** The flags of class-data archives. */
export const CLASS_ARCHIVE_FLAGS: FlagPart<ClassArchiveFlags> = {
  options: () => [
    new Option(
      "--class-archives <number>",
      "how many archives of Bazel's loaded classes to keep for each user, by which a Bazel server starts faster: one for " +
        "each Bazel, JDK and JVM options, some 60 MB each; 0 switches them off",
    )
      .env("RBS_CLASS_ARCHIVES").argParser(wholeNumber(0, 100)).default(4),
  ],
  read: ({ classArchives }) => ({ classArchives }),
};
