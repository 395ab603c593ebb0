/** Whose turn it is after an error: retries and breakers depend on it. */
export type Culprit = "caller" | "infrastructure";

/** Options of {@link RbsError}. */
export interface RbsErrorOptions {
  /** What went wrong underneath. */
  cause?: unknown;
  /** @default "infrastructure" */
  culprit?: Culprit;
  /** The exit code of a program that ends because of it. @default 1 */
  exitCode?: number;
}

/**
 * An error that a person reads: `message` is one sentence that says what failed, on what, and what to do.
 * Everything else that is known goes into `cause`.
 */
export class RbsError extends Error {
  override readonly name = "RbsError";
  readonly culprit: Culprit;
  readonly exitCode: number;

  constructor(message: string, options: RbsErrorOptions = {}) {
    super(message, { cause: options.cause });
    this.culprit = options.culprit ?? "infrastructure";
    this.exitCode = options.exitCode ?? 1;
  }
}

/** The one sentence of anything that was thrown: an error's first line, without a stack trace. */
export function sentence(thrown: unknown): string {
  const text = thrown instanceof Error ? thrown.message || thrown.name : String(thrown);
  return text.split("\n", 1)[0];
}

/** The system's name for what went wrong, as "ENOSPC": of an error of Deno, of Node or of the C library's; else undefined. */
export function systemCode(thrown: unknown): string | undefined {
  const code = (thrown as { code?: unknown } | undefined)?.code;
  return typeof code === "string" ? code : undefined;
}

/** Whether a disk, or what a user may have of it, is full. */
export function isDiskFull(thrown: unknown): boolean {
  const code = systemCode(thrown);
  return code === "ENOSPC" || code === "EDQUOT";
}
