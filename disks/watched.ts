import type { BlockDevice } from '../emulator/disk/types.ts';

/** A disk whose reads are told of before they are made. */
export function watched(disk: BlockDevice, onRead: (offset: number, length: number) => void): BlockDevice {
  return new Proxy(disk, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== 'function') return value;
      return (...args: unknown[]): unknown => {
        if (name === 'readPieces') onRead(args[0] as number, args[1] as number);
        return Reflect.apply(value, target, args);
      };
    },
  });
}
