// The only program of v86's initramfs besides the benches: reads a line from the serial port (a program and its argument),
// runs it there, says with which status it ended.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

int main(void)
{
    struct termios t;
    char line[256];
    mkdir("/proc", 0755);
    mount("proc", "/proc", "proc", 0, 0);
    tcgetattr(0, &t);
    t.c_lflag &= ~(ECHO | ECHOE | ECHOK);
    t.c_oflag &= ~OPOST;
    tcsetattr(0, TCSANOW, &t);
    dprintf(1, "READY\n");
    while (fgets(line, sizeof line, stdin)) {
        char *argv[8] = { 0 };
        int argc = 0, status = 0;
        for (char *word = strtok(line, " \r\n"); word && argc < 7; word = strtok(0, " \r\n")) argv[argc++] = word;
        if (!argc) continue;
        pid_t child = fork();
        if (!child) {
            execv(argv[0], argv);
            dprintf(1, "there is no %s\n", argv[0]);
            _exit(127);
        }
        waitpid(child, &status, 0);
        dprintf(1, "DONE %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    }
    pause();
}
