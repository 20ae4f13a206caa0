// SPDX-License-Identifier: GPL-2.0
/*
 * A driver for QEMU's "edu" device, of which QEMU saves nothing: neither its registers nor where
 * the guest has put them. Its memory is reached by DMA alone. The driver can be suspended
 * (runtime PM), with that memory in the guest's RAM meanwhile, and can fail in the ways in which
 * drivers do.
 *
 *     /sys/bus/pci/devices/…/memory   text that lies in the device
 *     /sys/bus/pci/devices/…/answer   a line, computed by the device: "7! = 5040"
 *
 * Source: QEMU's docs/specs/edu.txt (7.2).
 */
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/iopoll.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/pm_runtime.h>

#define REG_ID 0x00
#define REG_FACTORIAL 0x08
#define REG_STATUS 0x20
#define REG_DMA_FROM 0x80
#define REG_DMA_TO 0x88
#define REG_DMA_BYTES 0x90
#define REG_DMA_COMMAND 0x98
#define ID 0x010000edu
#define DMA_GO 1u
#define DMA_TO_RAM 2u
#define OWN_MEMORY 0x40000u
#define BYTES 2048u /* QEMU 7.2 ends where a DMA reaches the end of its memory */
#define LIMIT_US 2000000

static bool refuse;
module_param(refuse, bool, 0644);
MODULE_PARM_DESC(refuse, "runtime suspend fails");
static bool no_pm;
module_param(no_pm, bool, 0444);
MODULE_PARM_DESC(no_pm, "the driver has no runtime power management");
static char *fail = "";
module_param(fail, charp, 0644);
MODULE_PARM_DESC(fail, "what probe does: oops, or hang (until hang_ms have passed)");
static unsigned int hang_ms = 3000;
module_param(hang_ms, uint, 0644);

struct edu {
    void __iomem *regs;
    struct mutex lock;
    dma_addr_t address;
    char *buffer;     /* BYTES, as the device sees them at address */
    char kept[BYTES]; /* while it is suspended */
};

/* To the device, or from it: BYTES. */
static int copy(struct edu *edu, bool to_ram)
{
    u64 command;

    if (readl(edu->regs + REG_ID) != ID)
        return -EIO;
    writeq(to_ram ? OWN_MEMORY : edu->address, edu->regs + REG_DMA_FROM);
    writeq(to_ram ? edu->address : OWN_MEMORY, edu->regs + REG_DMA_TO);
    writeq(BYTES, edu->regs + REG_DMA_BYTES);
    writeq(DMA_GO | (to_ram ? DMA_TO_RAM : 0), edu->regs + REG_DMA_COMMAND);
    return readq_poll_timeout(edu->regs + REG_DMA_COMMAND, command, !(command & DMA_GO), 1000,
                              LIMIT_US);
}

static ssize_t memory_show(struct device *dev, struct device_attribute *attr, char *text)
{
    struct edu *edu = dev_get_drvdata(dev);
    int r = pm_runtime_resume_and_get(dev);

    if (r < 0)
        return r;
    mutex_lock(&edu->lock);
    memset(edu->buffer, 0, BYTES);
    r = copy(edu, true);
    if (r == 0)
        r = sysfs_emit(text, "%.*s", (int)BYTES - 1, edu->buffer);
    mutex_unlock(&edu->lock);
    pm_runtime_put(dev);
    return r;
}

static ssize_t memory_store(struct device *dev, struct device_attribute *attr, const char *text,
                            size_t n)
{
    struct edu *edu = dev_get_drvdata(dev);
    int r = pm_runtime_resume_and_get(dev);

    if (r < 0)
        return r;
    mutex_lock(&edu->lock);
    memset(edu->buffer, 0, BYTES);
    memcpy(edu->buffer, text, min_t(size_t, n, BYTES - 1));
    r = copy(edu, false);
    mutex_unlock(&edu->lock);
    pm_runtime_put(dev);
    return r < 0 ? r : n;
}
static DEVICE_ATTR_RW(memory);

static ssize_t answer_show(struct device *dev, struct device_attribute *attr, char *text)
{
    struct edu *edu = dev_get_drvdata(dev);
    u32 status;
    int r = pm_runtime_resume_and_get(dev);

    if (r < 0)
        return r;
    mutex_lock(&edu->lock);
    r = readl(edu->regs + REG_ID) == ID ? 0 : -EIO;
    if (r == 0) {
        writel(7, edu->regs + REG_FACTORIAL);
        r = readl_poll_timeout(edu->regs + REG_STATUS, status, !(status & 1), 100, LIMIT_US);
    }
    if (r == 0)
        r = sysfs_emit(text, "7! = %u\n", readl(edu->regs + REG_FACTORIAL));
    mutex_unlock(&edu->lock);
    pm_runtime_put(dev);
    return r;
}
static DEVICE_ATTR_RO(answer);

static struct attribute *edu_attrs[] = { &dev_attr_memory.attr, &dev_attr_answer.attr, NULL };
ATTRIBUTE_GROUPS(edu);

static int edu_suspend(struct device *dev)
{
    struct edu *edu = dev_get_drvdata(dev);
    int r;

    if (refuse)
        return -EBUSY;
    r = copy(edu, true);
    if (r == 0)
        memcpy(edu->kept, edu->buffer, BYTES);
    return r;
}

static int edu_resume(struct device *dev)
{
    struct edu *edu = dev_get_drvdata(dev);

    pci_set_master(to_pci_dev(dev));
    memcpy(edu->buffer, edu->kept, BYTES);
    return copy(edu, false);
}

static int edu_probe(struct pci_dev *pci, const struct pci_device_id *id)
{
    struct edu *edu = devm_kzalloc(&pci->dev, sizeof(*edu), GFP_KERNEL);
    int r;

    if (!edu)
        return -ENOMEM;
    r = pcim_enable_device(pci);
    if (r == 0)
        r = pcim_iomap_regions(pci, 1, "stasis-edu");
    if (r == 0)
        r = dma_set_mask_and_coherent(&pci->dev, DMA_BIT_MASK(28));
    if (r < 0)
        return r;
    pci_set_master(pci);
    mutex_init(&edu->lock);
    edu->regs = pcim_iomap_table(pci)[0];
    edu->buffer = dmam_alloc_coherent(&pci->dev, BYTES, &edu->address, GFP_KERNEL);
    if (!edu->buffer)
        return -ENOMEM;
    if (readl(edu->regs + REG_ID) != ID)
        return -ENODEV;
    if (strcmp(fail, "oops") == 0)
        *(volatile int *)8 = 1;
    if (strcmp(fail, "hang") == 0) {
        msleep(hang_ms); /* for an answer that does not come */
        return -ETIMEDOUT;
    }
    pci_set_drvdata(pci, edu);
    if (!no_pm)
        pm_runtime_put_noidle(&pci->dev);
    return 0;
}

static void edu_remove(struct pci_dev *pci)
{
    if (!no_pm)
        pm_runtime_get_noresume(&pci->dev);
}

static const struct pci_device_id edu_ids[] = { { PCI_DEVICE(0x1234, 0x11e8) }, {} };
MODULE_DEVICE_TABLE(pci, edu_ids);

static DEFINE_RUNTIME_DEV_PM_OPS(edu_pm, edu_suspend, edu_resume, NULL);

static struct pci_driver edu_driver = {
    .name = "stasis-edu",
    .id_table = edu_ids,
    .probe = edu_probe,
    .remove = edu_remove,
    .dev_groups = edu_groups,
    .driver.pm = pm_ptr(&edu_pm),
};
module_pci_driver(edu_driver);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("QEMU's edu device, for tests");
