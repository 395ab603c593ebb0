/** Writes one line for the operator. */
export type Log = (message: string) => void;

/** Logs to standard error, each line with its time. */
export const logToStderr: Log = (message) => console.error(`${new Date().toISOString()} ${message}`);
