/* wanem: a line between two network namespaces, for kernels without netem.
 *
 *     wanem NETNS_A DEVICE_A NETNS_B DEVICE_B CONF
 *
 * One TUN device in each namespace; packets cross with a serialisation rate, a fixed delay, a tail-drop queue and
 * random loss. The devices take super-packets of up to 64 KiB (IFF_VNET_HDR, TSO), so that a fast line costs little
 * CPU; rate and loss are those of the segments in them: a super-packet that loses a segment is split around it (IPv4
 * and TCP only).
 *
 * CONF is one line, read again at SIGHUP: delay_us rate_mbit loss_percent queue_kib
 * The delay is one way, rate 0 is no limit, the loss is that of each way.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define HEAD ((int)sizeof(struct virtio_net_hdr)) /* before every packet */
#define PACKET_MAX (65536 + 256)
#define SEGMENTS_MAX 512
#define ETHERNET 14 /* bytes of the frame that a TUN device leaves out */
#define BATCH 32    /* packets read before those that are due are looked at again */

struct profile {
    int64_t delay_ns;
    double rate_bytes_s; /* 0: no limit */
    double loss;
    int64_t queue_bytes;
};

struct packet {
    struct packet *next;
    int64_t due_ns;
    int size;
    unsigned char bytes[];
};

struct direction {
    int in, out;
    struct packet *first, *last;
    int64_t line_free_ns;
    uint64_t random;
};

static volatile struct profile profile;
static const char *conf;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* xorshift64: in [0, 1) */
static double chance(struct direction *d) {
    d->random ^= d->random << 13;
    d->random ^= d->random >> 7;
    d->random ^= d->random << 17;
    return (d->random >> 11) * (1.0 / 9007199254740992.0);
}

static void load(void) {
    double delay_us, rate_mbit, loss_percent, queue_kib;
    FILE *file = fopen(conf, "r");
    if (!file)
        return;
    int found = fscanf(file, "%lf %lf %lf %lf", &delay_us, &rate_mbit, &loss_percent, &queue_kib);
    fclose(file);
    if (found < 4)
        return;
    profile.delay_ns = (int64_t)(delay_us * 1000);
    profile.rate_bytes_s = rate_mbit * 1e6 / 8;
    profile.loss = loss_percent / 100;
    profile.queue_bytes = (int64_t)(queue_kib * 1024);
}

static void require(int good, const char *what) {
    if (!good) {
        perror(what);
        exit(1);
    }
}

/* Afterwards this thread is in that namespace. */
static int tun(const char *namespace, const char *device) {
    char path[256];
    snprintf(path, sizeof path, "/run/netns/%s", namespace);
    int ns = open(path, O_RDONLY | O_CLOEXEC);
    require(ns >= 0 && setns(ns, CLONE_NEWNET) == 0, path);
    close(ns);
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    require(fd >= 0, "/dev/net/tun");
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
    strncpy(request.ifr_name, device, IFNAMSIZ - 1);
    require(ioctl(fd, TUNSETIFF, &request) == 0, "TUNSETIFF");
    int size = HEAD;
    ioctl(fd, TUNSETVNETHDRSZ, &size);
    require(ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) == 0, "TUNSETOFFLOAD");
    return fd;
}

static void enqueue(struct direction *d, int64_t due_ns, const unsigned char *bytes, int size) {
    struct packet *p = malloc(sizeof *p + size);
    if (!p)
        return;
    p->next = NULL;
    p->due_ns = due_ns;
    p->size = size;
    memcpy(p->bytes, bytes, size);
    if (d->last)
        d->last->next = p;
    else
        d->first = p;
    d->last = p;
}

/* --- super-packets: what has lost a segment goes on as the runs between the holes --- */

struct super {
    const unsigned char *bytes;
    int size, headers, segment, count; /* headers: of IP and TCP; count: segments */
};

static uint32_t folded(uint32_t sum) {
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static uint16_t ip_checksum(const unsigned char *header, int size) {
    uint32_t sum = 0;
    for (int i = 0; i < size; i += 2)
        sum += (header[i] << 8) | header[i + 1];
    return htons(~folded(sum) & 0xffff);
}

/* The TCP checksum of the pseudo header only: the receiving kernel completes it (VIRTIO_NET_HDR_F_NEEDS_CSUM). */
static uint16_t begun_checksum(const struct iphdr *ip, int tcp_size) {
    uint32_t from = ntohl(ip->saddr), to = ntohl(ip->daddr);
    return htons(folded((from >> 16) + (from & 0xffff) + (to >> 16) + (to & 0xffff) + IPPROTO_TCP + tcp_size));
}

static void enqueue_run(struct direction *d, int64_t due_ns, const struct super *s, int begin, int end) {
    static __thread unsigned char out[PACKET_MAX];
    int payload = s->size - HEAD - s->headers;
    int from = begin * s->segment, to = end * s->segment < payload ? end * s->segment : payload, length = to - from;
    memcpy(out, s->bytes, HEAD + s->headers);
    memcpy(out + HEAD + s->headers, s->bytes + HEAD + s->headers + from, length);
    struct virtio_net_hdr *head = (void *)out;
    struct iphdr *ip = (void *)(out + HEAD);
    int ip_size = ip->ihl * 4;
    struct tcphdr *tcp = (void *)(out + HEAD + ip_size);
    ip->tot_len = htons(s->headers + length);
    ip->id = htons(ntohs(ip->id) + begin);
    ip->check = 0;
    ip->check = ip_checksum((unsigned char *)ip, ip_size);
    tcp->seq = htonl(ntohl(tcp->seq) + from);
    if (end < s->count)
        tcp->fin = tcp->psh = 0;
    tcp->check = begun_checksum(ip, s->headers - ip_size + length);
    head->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    head->csum_start = ip_size;
    head->csum_offset = 16;
    head->hdr_len = s->headers;
    head->gso_type = length > s->segment ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_NONE;
    head->gso_size = length > s->segment ? s->segment : 0;
    enqueue(d, due_ns, out, HEAD + s->headers + length);
}

static struct super parsed(const unsigned char *bytes, int size) {
    struct super s = {.bytes = bytes, .size = size, .count = 1};
    const struct virtio_net_hdr *head = (const void *)bytes;
    if ((head->gso_type & 0x7f) != VIRTIO_NET_HDR_GSO_TCPV4 || !head->gso_size)
        return s;
    const struct iphdr *ip = (const void *)(bytes + HEAD);
    const struct tcphdr *tcp = (const void *)(bytes + HEAD + ip->ihl * 4);
    s.headers = ip->ihl * 4 + tcp->doff * 4;
    s.segment = head->gso_size;
    s.count = (size - HEAD - s.headers + s.segment - 1) / s.segment;
    if (s.count > SEGMENTS_MAX)
        s.count = SEGMENTS_MAX;
    return s;
}

static int segment_size(const struct super *s, int number) {
    if (s->count == 1)
        return s->size - HEAD;
    int left = s->size - HEAD - s->headers - number * s->segment;
    return s->headers + (left < s->segment ? left : s->segment);
}

/* --- the line --- */

/* Put every segment on the line, one after the other. How many are lost, which ones, and when the last has left. */
static int transmit(struct direction *d, const struct super *s, const struct profile *p, int64_t now, char *lost,
                    int64_t *left_ns) {
    int lost_count = 0;
    int64_t t = d->line_free_ns > now ? d->line_free_ns : now;
    for (int i = 0; i < s->count; i++) {
        lost[i] = p->loss > 0 && chance(d) < p->loss; /* after the bottleneck: it takes its time on the line */
        if (p->rate_bytes_s > 0 && (t - now) * 1e-9 * p->rate_bytes_s > p->queue_bytes)
            lost[i] = 1; /* the queue is full: it never reaches the line */
        else if (p->rate_bytes_s > 0)
            t += (int64_t)((segment_size(s, i) + ETHERNET) / p->rate_bytes_s * 1e9);
        lost_count += lost[i];
    }
    d->line_free_ns = *left_ns = t;
    return lost_count;
}

static void handle(struct direction *d, const unsigned char *bytes, int size, int64_t now) {
    struct profile p = {profile.delay_ns, profile.rate_bytes_s, profile.loss, profile.queue_bytes};
    struct super s = parsed(bytes, size);
    char lost[SEGMENTS_MAX];
    int64_t left_ns;
    int lost_count = transmit(d, &s, &p, now, lost, &left_ns);
    if (!lost_count) {
        enqueue(d, left_ns + p.delay_ns, bytes, size);
        return;
    }
    for (int begin = 0, end; s.count > 1 && begin < s.count; begin = end + 1) {
        for (end = begin; end < s.count && !lost[end]; end++)
            ;
        if (end > begin)
            enqueue_run(d, left_ns + p.delay_ns, &s, begin, end);
    }
}

static void deliver_due(struct direction *d) {
    int64_t now = now_ns();
    while (d->first && d->first->due_ns <= now) {
        struct packet *p = d->first;
        if (write(d->out, p->bytes, p->size) < 0 && errno == EAGAIN) { /* lost, as in a router whose port is slow */
            struct pollfd out = {d->out, POLLOUT, 0};
            poll(&out, 1, 1);
        }
        d->first = p->next;
        if (!d->first)
            d->last = NULL;
        free(p);
    }
}

static int take(struct direction *d) {
    static __thread unsigned char bytes[PACKET_MAX];
    int taken = 0;
    for (; taken < BATCH; taken++) {
        ssize_t size = read(d->in, bytes, sizeof bytes);
        if (size <= 0)
            break;
        if (size > HEAD + 20 && (bytes[HEAD] >> 4) == 4)
            handle(d, bytes, size, now_ns());
    }
    return taken;
}

static void await(struct direction *d) {
    struct pollfd in = {d->in, POLLIN, 0};
    int64_t wait_ns = d->first ? d->first->due_ns - now_ns() : 0;
    if (wait_ns < 0)
        wait_ns = 0;
    struct timespec wait = {wait_ns / 1000000000, wait_ns % 1000000000};
    ppoll(&in, 1, d->first ? &wait : NULL, NULL);
}

static void *run(void *direction) {
    prctl(PR_SET_TIMERSLACK, 1000); /* ns */
    for (;;) {
        deliver_due(direction);
        if (!take(direction))
            await(direction);
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: wanem NETNS_A DEVICE_A NETNS_B DEVICE_B CONF\n");
        return 2;
    }
    conf = argv[5];
    load();
    int a = tun(argv[1], argv[2]), b = tun(argv[3], argv[4]);
    uint64_t seed = (uint64_t)now_ns() * 2654435761u + (uint64_t)getpid(); /* every line loses other packets */
    struct direction directions[] = {{.in = a, .out = b, .random = seed | 1}, {.in = b, .out = a, .random = ~seed | 2}};
    sigset_t hup;
    sigemptyset(&hup);
    sigaddset(&hup, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &hup, NULL);
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, run, &directions[i]);
    }
    printf("ready\n");
    fflush(stdout);
    for (int number; sigwait(&hup, &number) == 0;)
        load();
}
