import type { ScannedEntry } from "../../proto/tree/scan.ts";

/** What is known of one of the developer's trees. */
export interface Root {
  /** The developer's absolute path. */
  readonly path: string;
  single: boolean;
  readOnly: boolean;
  entries: Map<string, ScannedEntry>;
  /** Files that were written but not looked at since, see {@link UNSEEN}. */
  unseen: Set<string>;
  /** The entries belong to the present generation, except for foreign changes. */
  known: boolean;
}

/**
 * Inode of a file that was written but not looked at yet: a hundred thousand stats can wait until no caller does. Its
 * ctimeMs is the time of the write; a later ctime means that another program has changed it.
 */
export const UNSEEN = -1;
