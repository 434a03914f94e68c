/** Linux error numbers (asm-generic/errno-base.h and errno.h) a person may meet. */
const ERRORS: Readonly<Record<number, readonly [code: string, message: string]>> = {
  1: ['EPERM', 'operation not permitted'],
  2: ['ENOENT', 'no such file or directory'],
  3: ['ESRCH', 'no such process'],
  4: ['EINTR', 'interrupted system call'],
  5: ['EIO', 'input/output error'],
  6: ['ENXIO', 'no such device or address'],
  7: ['E2BIG', 'argument list too long'],
  8: ['ENOEXEC', 'not in a format that can be run'],
  9: ['EBADF', 'bad file descriptor'],
  11: ['EAGAIN', 'resource temporarily unavailable'],
  12: ['ENOMEM', 'out of memory'],
  13: ['EACCES', 'permission denied'],
  14: ['EFAULT', 'bad address'],
  16: ['EBUSY', 'device or resource busy'],
  17: ['EEXIST', 'file exists'],
  18: ['EXDEV', 'not on the same file system'],
  19: ['ENODEV', 'no such device'],
  20: ['ENOTDIR', 'not a directory'],
  21: ['EISDIR', 'is a directory'],
  22: ['EINVAL', 'invalid argument'],
  23: ['ENFILE', 'too many open files in the system'],
  24: ['EMFILE', 'too many open files'],
  26: ['ETXTBSY', 'the program is being written to'],
  27: ['EFBIG', 'file too large'],
  28: ['ENOSPC', 'no space left on device'],
  30: ['EROFS', 'read-only file system'],
  31: ['EMLINK', 'too many links'],
  32: ['EPIPE', 'broken pipe'],
  36: ['ENAMETOOLONG', 'file name too long'],
  38: ['ENOSYS', 'the guest agent is too old for this'],
  39: ['ENOTEMPTY', 'directory not empty'],
  40: ['ELOOP', 'too many levels of symbolic links'],
  71: ['EPROTO', 'protocol error'],
  95: ['EOPNOTSUPP', 'operation not supported'],
  122: ['EDQUOT', 'disk quota exceeded'],
};

export const EPIPE = 32;
export const EFBIG = 27;
export const E2BIG = 7;
export const ENOSYS = 38;

/** What the guest refused, or that it can no longer be asked. */
export class AgentError extends Error {
  override readonly name = 'AgentError';

  /**
   * @param code the error's symbolic name, such as `ENOENT`; `EAGENT` when the agent itself cannot be reached
   * @param errno Linux error number, where the guest gave one
   */
  constructor(
    message: string,
    readonly code: string,
    readonly errno?: number,
  ) {
    super(message);
  }

  /** In the manner of "rm /etc/x: permission denied (EACCES)". */
  static fromErrno(errno: number, what: string): AgentError {
    const [code, message] = ERRORS[errno] ?? [`E${errno}`, `error ${errno}`];
    return new AgentError(`${what}: ${message} (${code})`, code, errno);
  }
}
