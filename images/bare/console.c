/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Output to the debug port (0xe9) and to COM1, input from COM1.
 *
 * Each byte of port I/O is an exit to QEMU, which may take as long as a page fault, or wait for
 * QEMU's lock while a machine is being saved. So lines are put into a buffer, and console_pump()
 * sends a piece at a time: all of the debug port's in one string instruction, at most a FIFO of
 * 16 bytes to COM1. When the buffer is full the line is dropped whole, never cut.
 */
#include <stdarg.h>
#include "guest.h"

#define DEBUG_PORT 0xe9
#define COM1 0x3f8
#define COM1_FIFO 16
#define LSR_DATA 0x01
#define LSR_EMPTY 0x20

#define BUFFER 16384ul /* a power of two */

static char buffer[BUFFER];
static uint64_t written, sent_debug, sent_serial; /* totals: positions are these modulo BUFFER */
static bool have_debug, have_serial;

void console_init(void)
{
    have_debug = inb(DEBUG_PORT) == DEBUG_PORT;
    outb(COM1 + 7, 0x5a); /* scratch register: is there a port at all? */
    have_serial = inb(COM1 + 7) == 0x5a;
    if (!have_serial)
        return;
    outb(COM1 + 1, 0x00); /* no interrupts */
    outb(COM1 + 3, 0x80); /* 115200 baud, 8n1 */
    outb(COM1 + 0, 0x01);
    outb(COM1 + 1, 0x00);
    outb(COM1 + 3, 0x03);
    outb(COM1 + 2, 0x07); /* FIFOs on and emptied */
    outb(COM1 + 4, 0x03);
}

/* Send the bytes from *sent on, at most @max and not beyond the end of the buffer. */
static void send(uint16_t port, uint64_t *sent, uint64_t max)
{
    uint64_t at = *sent % BUFFER, n = written - *sent;

    if (n > max)
        n = max;
    if (n > BUFFER - at)
        n = BUFFER - at;
    if (n > 0)
        outsb(port, buffer + at, n);
    *sent += n;
}

bool console_pending(void)
{
    return sent_debug != written || sent_serial != written;
}

void console_pump(void)
{
    clock_io_begin();
    if (!have_debug)
        sent_debug = written;
    send(DEBUG_PORT, &sent_debug, BUFFER);
    if (!have_serial)
        sent_serial = written;
    else if (sent_serial != written && (inb(COM1 + 5) & LSR_EMPTY))
        send(COM1, &sent_serial, COM1_FIFO);
    clock_io_end();
}

void console_flush(void)
{
    /* Bounded: a serial line whose other end does not read must not hold the guest up. */
    for (int i = 0; i < 100000 && console_pending(); i++)
        console_pump();
}

int console_input(void)
{
    int byte = -1;

    if (!have_serial)
        return -1;
    clock_io_begin();
    if (inb(COM1 + 5) & LSR_DATA)
        byte = inb(COM1);
    clock_io_end();
    return byte;
}

static char *put_number(char *end, uint64_t value, unsigned radix)
{
    do {
        *--end = "0123456789abcdef"[value % radix];
        value /= radix;
    } while (value != 0);
    return end;
}

/* One line's worth: what does not fit into it is cut, but the line end is kept. */
typedef struct {
    char text[320];
    size_t n;
} Line;

static void append(Line *line, const char *s)
{
    while (*s != '\0' && line->n < sizeof(line->text))
        line->text[line->n++] = *s++;
}

void print(const char *format, ...)
{
    Line line = { .n = 0 };
    va_list args;

    va_start(args, format);
    for (; *format != '\0'; format++) {
        char number[24] = { 0 };

        if (*format != '%') {
            append(&line, (char[]){ *format, '\0' });
            continue;
        }
        format++;
        if (*format == 's')
            append(&line, va_arg(args, const char *));
        else
            append(&line,
                   put_number(number + 23, va_arg(args, uint64_t), *format == 'x' ? 16 : 10));
    }
    va_end(args);
    if (line.n == sizeof(line.text))
        line.text[line.n - 1] = '\n';

    if (line.n > BUFFER - (written - (sent_debug < sent_serial ? sent_debug : sent_serial)))
        return;
    for (size_t i = 0; i < line.n; i++)
        buffer[(written + i) % BUFFER] = line.text[i];
    written += line.n;
}
